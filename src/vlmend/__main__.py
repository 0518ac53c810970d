"""`python -m vlmend`, which `accelerate launch -m vlmend` needs: the command line."""

from vlmend.cli import main

main()
