"""`python -m rl_rerank`: the command line."""

from rl_rerank.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
