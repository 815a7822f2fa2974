# SPDX-License-Identifier: MIT
"""`python -m pvlab`, which ./tools/lab runs."""

from .cli import main

main()
