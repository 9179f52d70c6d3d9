# SPDX-License-Identifier: Apache-2.0
"""`mmjax plan`: the train step of a run, compiled for a TPU pod that is not there: its needs, its least time.

chips     what TPUs can do                      program   the step as shapes, lowered
flops     what a step must compute              memory    what it needs on a chip
hlo       the compiled program                  schedule  its scheduled cycles        bound   its least time
child     all that, in a process of its own     plans     asks for it, searches       show    text and page
"""
