# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets that were prepared as array_record: read by index, without TensorFlow.

A set is prepared once, where TensorFlow is installed if its builder needs it:
    tfds build NAME --file_format=array_record
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from mmjax.data.sources.formats import RecordFormat
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.records import Record
from mmjax.data.sources.source import CountingSource
from mmjax.document import Document


class Tfds(CountingSource):
    """One split of a prepared set; its features become the fields of a record.

    Pictures stay encoded; labels become their names, texts str, boxes [x0, y0, x1, y1] whatever their order in the set;
    fields of sequences are reached as in JSON ('objects.bbox').
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which set (a folder, or NAME, NAME/CONFIG, NAME:VERSION below data_dir), and how a record is read."""

        name: str
        split: str = 'train'
        data_dir: str = ''  # '': where tfds looks by itself, ~/tensorflow_datasets
        record: RecordFormat = dataclasses.field(default_factory=Pair)
        quality: str = ''

        def build(self) -> 'Tfds':
            """Opens the set; nothing is downloaded or prepared."""
            return Tfds(self)

    def __init__(self, config: Config):
        builder = _builder(config)
        super().__init__(f'{builder.name}:{config.split}')
        self.config = config
        self.features = builder.info.features
        self.data = _open(builder, config)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Document:
        """Returns the document of example `index`."""
        key = f'{self.name}:{index}'
        fields = plain(self.data[index], self.features)
        record = Record(fields, key, lambda name: None, self.problems)
        return self.config.record.document(record, self.config.quality)


def plain(value: Any, feature: Any) -> Any:
    """Returns an example as JSON would have it, by what the set says of its features."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: plain(part, feature[name]) for name, part in value.items()}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):  # a dictionary of lists
            return {name: [plain(v, inner[name]) for v in part] for name, part in value.items()}
        return [plain(v, inner) for v in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if feature.names and int(value) >= 0 else int(value)
    if isinstance(feature, tfds.features.BBoxFeature):
        return _xyxy(value, feature)
    if isinstance(feature, tfds.features.Image):
        return value
    if isinstance(value, bytes):
        return value.decode('utf-8', 'replace')
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [v.decode('utf-8', 'replace') if isinstance(v, bytes) else v for v in value.tolist()]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _xyxy(value: Any, feature: Any) -> list[float]:
    """Returns a box as x0, y0, x1, y1 in the unit of the set: fractions, or pixels if its format is not relative."""
    a, b, c, d = (float(v) for v in value)
    form = getattr(feature.bbox_format, 'value', feature.bbox_format) or 'REL_YXYX'
    if form.endswith('YXYX'):
        return [b, a, d, c]
    return [a, b, a + c, b + d] if form.endswith('XYWH') else [a, b, c, d]


def _builder(config: 'Tfds.Config') -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f'{config.name}: reading TFDS sets needs its package: pip install "mmjax[tfds]"') from error
    folder = pathlib.Path(config.data_dir or '.').expanduser() / config.name
    try:
        if (folder / 'dataset_info.json').is_file():
            return tfds.builder_from_directory(folder)
        return tfds.builder(config.name, data_dir=config.data_dir or None, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f'{config.name}: no prepared set in {config.data_dir or "~/tensorflow_datasets"}, nor is it a folder with '
            f'dataset_info.json: {error}'
        ) from None


def _open(builder: Any, config: 'Tfds.Config') -> Any:
    import tensorflow_datasets as tfds

    if not (splits := builder.info.splits):
        raise FileNotFoundError(f'{config.name}: not prepared in {builder.data_path}; {_prepare(config)}')
    if config.split.split('[')[0] not in splits:
        raise ValueError(f'{config.name}: no split {config.split!r}; there are {", ".join(splits)}')
    encoded = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        return builder.as_data_source(config.split, decoders=encoded)
    except (NotImplementedError, AssertionError) as error:
        raise ValueError(f'{config.name}: {str(error).splitlines()[0]} {_prepare(config)}') from None


def _prepare(config: 'Tfds.Config') -> str:
    return f"prepare it once: tfds.builder({config.name!r}, file_format='array_record').download_and_prepare()"
