"""What runs behind the wall: the standard library and these files are all there is."""
