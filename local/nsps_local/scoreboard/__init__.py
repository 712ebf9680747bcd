"""What holds on this machine: the existing measurements and checks, run by one command."""
