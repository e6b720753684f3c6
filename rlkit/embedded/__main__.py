"""``python -m rlkit.embedded``."""

from rlkit.embedded.script import main

if __name__ == "__main__":
    main()
