# SPDX-License-Identifier: Apache-2.0
"""Lets `python -m launch` do what `launch` does."""

from launch.cli import main

if __name__ == '__main__':
    main()
