"""`python -m faults`. Each operator process imports this module again, so nothing happens unless it is the program."""

if __name__ == "__main__":
    import sys

    from faults.command_line import main

    sys.exit(main())
