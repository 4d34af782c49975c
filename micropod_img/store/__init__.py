"""The store on disk: one OCI layout, its index, blobs, staging places and locks; the disk is the database."""
