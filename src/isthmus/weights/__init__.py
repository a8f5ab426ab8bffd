"""Model folders: weights of any size on the disk, written and read a tensor at a time. No torch here."""
