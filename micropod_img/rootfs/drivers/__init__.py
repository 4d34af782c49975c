"""Ways to make a root filesystem of layers: the kernel's overlay, fuse-overlayfs, copies; one behaviour for all."""
