"""What is wrong with a store: its layout, its index, its images and each of its blobs. Nothing is changed here."""
