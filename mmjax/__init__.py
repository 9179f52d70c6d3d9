# SPDX-License-Identifier: Apache-2.0
"""Dense multimodal models in JAX: documents in which text, images, video, regions and states alternate."""
