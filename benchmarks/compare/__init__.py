"""How well encoders retrieve that were trained by different losses."""
