# SPDX-License-Identifier: Apache-2.0
"""The layout of Ferret's region sampler, `region_geo_sampler` of its checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.models.region_sampler import RegionSampler
from mmjax.weights.parts import linear, norm
from mmjax.weights.rules import Matrix, Shape
from mmjax.weights.table import Entry, Table


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """A convolution over one place: public [out, in, 1], ours [in, out]."""

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return Matrix().read([public[0][..., 0]], shapes)

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [Matrix().write(ours)[0][..., None]]


def sampler(public: Mapping[str, Any]) -> RegionSampler.Config:
    """Returns our config of the arguments of a GeoRegionSampler; its widths are those of tower and text model."""
    return RegionSampler.Config(
        points=public.get('num_init_point', 512),
        anchors=tuple(public.get('num_sub_point', (128, 32))),
        neighbours=tuple(public.get('num_neighbor', (24, 24))),
        pool=public.get('pooler_mode', 'mean'),
    )


def sampler_table(c: RegionSampler.Config) -> Table:
    """Returns the names of a GeoRegionSampler."""
    entries = [*linear('flatten', 'flatten_projector', inputs=2), *linear('out', 'dim_projector')]
    for i in range(len(c.anchors)):
        entries += linear(f'rounds/{i}/difference', f'diff_projector_list.{i}')
        entries.append(Entry(f'rounds/{i}/join/kernel', f'agg_projector_list.{i}.net.0.weight', Pointwise()))
        entries.append(Entry(f'rounds/{i}/join/bias', f'agg_projector_list.{i}.net.0.bias'))
        entries += norm(f'rounds/{i}/norm', f'agg_projector_list.{i}.norm')
    return Table(tuple(entries))
