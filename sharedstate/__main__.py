"""`python -m sharedstate`: the same as the command `sharedstate`."""

from sharedstate.cli import main

if __name__ == "__main__":
    main()
