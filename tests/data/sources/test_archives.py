# SPDX-License-Identifier: Apache-2.0
"""Members of tar and zip files lie where we say; of broken files everything readable is found and the rest counted."""

import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest

from mmjax.data.sources import archives
from mmjax.data.sources.problems import Problems

FILES = [(f'd/{i:03}.bin', bytes([i]) * (700 * i + 1)) for i in range(6)]


def found(path):
    problems = Problems()
    return [(m.name, m.place.read()) for m in archives.members(path, problems)], problems


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_and_long_names(tmp_path, make_tar, form):
    long = 'a' * 80 + '/' + '中' * 25 + '/' + 'b' * 60 + '.jpg'
    if form == tarfile.USTAR_FORMAT:
        long = 'a' * 80 + '/' + 'b' * 60 + '.jpg'
    files = [*FILES, (long, b'long')]
    assert found(make_tar(tmp_path / 'a.tar', files, format=form))[0] == files


def test_only_files_are_members(tmp_path):
    path = tmp_path / 'a.tar'
    with tarfile.open(path, 'w') as archive:
        for kind, name in ((tarfile.DIRTYPE, 'd'), (tarfile.SYMTYPE, 'link')):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        info = tarfile.TarInfo('d/x')
        info.size = 3
        archive.addfile(info, io.BytesIO(b'abc'))
    members, problems = found(path)
    assert members == [('d/x', b'abc')] and not problems


@pytest.mark.parametrize('lost', [1, 1024, 10_000, 11_500])
def test_truncated_tar_gives_what_is_there(tmp_path, make_tar, lost):
    whole = make_tar(tmp_path / 'a.tar', FILES).read_bytes().rstrip(b'\0')
    path = tmp_path / 'cut.tar'
    path.write_bytes(whole[:-lost])
    members, problems = found(path)
    complete = [f for f in FILES if whole.find(f[1], whole.find(f[0].encode())) + len(f[1]) <= len(whole) - lost]
    assert members == complete and len(complete) < len(FILES)
    assert problems.counts['truncated tar member'] == 1


def test_after_damaged_bytes_the_next_member_is_found(tmp_path, make_tar):
    data = bytearray(make_tar(tmp_path / 'a.tar', FILES).read_bytes())
    header = data.find(b'd/003.bin')
    data[header : header + 512] = np.random.default_rng(0).bytes(512)
    path = tmp_path / 'damaged.tar'
    path.write_bytes(data)
    members, problems = found(path)
    assert members == [f for f in FILES if f[0] != 'd/003.bin']
    # The header and the member's bytes, in whole blocks.
    assert problems.counts['damaged bytes in tar'] == 512 * (1 + -(-len(FILES[3][1]) // 512))
    assert str(header) in problems.examples['damaged bytes in tar'][0]


def test_tars_written_one_after_the_other(tmp_path, make_tar):
    a = make_tar(tmp_path / 'a.tar', FILES[:3]).read_bytes()
    b = make_tar(tmp_path / 'b.tar', FILES[3:]).read_bytes()
    path = tmp_path / 'ab.tar'
    path.write_bytes(a + b)
    assert found(path)[0] == FILES and not found(path)[1]


@pytest.mark.parametrize('data', [b'', b'no tar at all' * 1000, b'x' * 100])
def test_what_is_no_tar_gives_nothing_and_says_so(tmp_path, data):
    path = tmp_path / 'a.tar'
    path.write_bytes(data)
    members, problems = found(path)
    assert members == [] and bool(problems) == bool(data)


def test_an_empty_tar_is_no_damage(tmp_path, make_tar):
    members, problems = found(make_tar(tmp_path / 'a.tar', []))
    assert members == [] and not problems


def test_a_header_that_leads_nowhere_does_not_hold_us_up(tmp_path, make_tar):
    files = [FILES[0], ('x' * 200, b'1'), *FILES[1:]]
    data = bytearray(make_tar(tmp_path / 'a.tar', files, format=tarfile.GNU_FORMAT).read_bytes())
    # An extension header with a long name is left, the header that it extends is lost.
    header = data.rfind(b'x' * 100)
    assert data[header : header + 512].find(b'ustar') == 257
    data[header : header + 512] = b'\xff' * 512
    (tmp_path / 'b.tar').write_bytes(data)
    members, problems = found(tmp_path / 'b.tar')
    assert members == FILES and problems.counts['damaged bytes in tar'] == 4 * 512


def test_any_damage_ends_and_gives_only_true_bytes(tmp_path, make_tar):
    whole = make_tar(tmp_path / 'a.tar', FILES, format=tarfile.PAX_FORMAT).read_bytes()
    rng = np.random.default_rng(1)
    for trial in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 30):
            data[place] = rng.integers(256)
        path = tmp_path / f'{trial}.tar'
        path.write_bytes(data)
        for member in archives.members(path, Problems()):
            assert len(member.place.read()) == member.place.size


def test_compressed_tar_is_refused_with_the_way_out(tmp_path, make_tar):
    path = tmp_path / 'a.tar'
    with tarfile.open(path, 'w:gz'):
        pass
    with pytest.raises(ValueError, match='gunzip'):
        found(path)


def test_zip_members_stored_and_deflated(tmp_path, make_zip):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = make_zip(tmp_path / f'{method}.zip', FILES, method)
        assert found(path)[0] == FILES
    kinds = {type(m.place) for m in archives.members(path, Problems())}
    assert kinds == {archives.Deflated}


def test_zip_local_headers_may_be_longer_than_the_directory_says(tmp_path):
    path = tmp_path / 'a.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        info = zipfile.ZipInfo('x')
        info.extra = b'\xff\xff\x04\0abcd'
        archive.writestr(info, b'hello')
    data = path.read_bytes()
    # Take the extra field out of the directory, not out of the local header.
    directory = data.rfind(b'PK\x01\x02')
    end = data.rfind(b'PK\x05\x06')
    entry = data[directory:end].replace(b'\x08\0\0\0\0\0', b'\0\0\0\0\0\0', 1).replace(info.extra, b'')
    tail = bytearray(data[end:])
    tail[12:16] = len(entry).to_bytes(4, 'little')
    path.write_bytes(data[:directory] + entry + tail)
    assert found(path)[0] == [('x', b'hello')]


def test_broken_zip_is_counted(tmp_path, make_zip):
    path = make_zip(tmp_path / 'a.zip', FILES)
    path.write_bytes(path.read_bytes()[:-30])
    members, problems = found(path)
    assert members == [] and problems.counts['unreadable zip'] == 1


def test_part_of_a_deflated_member_inflates(tmp_path, make_zip):
    data = bytes(range(256)) * 100
    path = make_zip(tmp_path / 'a.zip', [('x', data)], zipfile.ZIP_DEFLATED)
    (member,) = archives.members(path, Problems())
    part = dataclasses.replace(member.place, size=member.place.size // 2).read()
    assert 0 < len(part) < len(data) and data.startswith(part)
