# SPDX-License-Identifier: Apache-2.0
"""Lets `python -m mmjax` do what `mmjax` does."""

from mmjax.cli import main

if __name__ == '__main__':
    main()
