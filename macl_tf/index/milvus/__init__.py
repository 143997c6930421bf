"""An index in a Milvus: a file on this machine (milvus-lite), a server, or a cluster."""
