"""From layers to files: the gate in front of umoci, umoci itself, and what is built from its work.

Every layer of every image passes `gate` before umoci may touch it, and umoci runs where it sees nothing but the layers
and the directory that it fills (`umoci`). Nothing in here extracts an archive or follows a link of one.
"""
