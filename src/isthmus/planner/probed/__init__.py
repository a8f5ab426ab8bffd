"""What follows from the profile that `isthmus probe` took of a machine."""
