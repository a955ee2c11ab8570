"""What other programs build on, as ``import loadgen`` offers it; each is what the command of its name does, too."""
