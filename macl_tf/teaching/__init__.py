"""What people teach an archive: collections of tiles that they judged."""
