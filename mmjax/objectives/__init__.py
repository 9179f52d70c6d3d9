# SPDX-License-Identifier: Apache-2.0
"""What is minimised: each file turns a model and a batch into sums of losses and weights.

An objective is a dataclass that is its own config (and hashable, for jit), called as

    objective(model, batch, key=..., teacher=...) -> (weighted loss sum, weight sum, further sums over the same weights)

`key` is a random key of this step and microbatch, `teacher` the model with the averaged weights of a stage with `ema`;
both may be None. Sums and not means: microbatches and devices are added up before the one division. `whole` says that
the loss compares rows with each other, so that a batch cannot be split into microbatches.
"""
