# SPDX-License-Identifier: Apache-2.0
"""Adding up what the compiler scheduled."""

from mmjax.plan.schedule import Kernel, kernel, read

FUSION = """
$region0: #{fusion.1}
  // region range: [0, 120)
  loop: start=0, step=1, limit=9
  $region2: #{fusion.1} parent=0 // loop_pre_header
    // region range: [1, 3)
  $region3: #{fusion.1} parent=0 // loop_body
    // region range: [10, 110)
    loop: start=0, step=2, limit=8
    $region4: #{fusion.1} parent=3 // loop_body
      // region range: [20, 30)
      %1 = vmatmul.f32
"""
TILES = """
$region0: #{kernel}
  // region range: [0, 1000)
  $region1: #{kernel} parent=0 // loop_body
    // region range: [100, 900)
    $region2: #{kernel} parent=1 // pred_region
      // region range: [150, 350)
      %1 = vmatmul.bf16
    $region3: #{kernel} parent=1 // pred_region
      // region range: [350, 600)
      %1 = vmatmul.bf16
    $region4: #{kernel} parent=1 // pred_region
      // region range: [600, 700)
"""


def test_loops_count_as_often_as_they_run():
    # 120, of them the body of 100 eight times more, of which 10 run three times more in each of the nine rounds.
    assert kernel(FUSION) == Kernel(120 + 8 * 100 + 9 * 3 * 10)


def test_a_loop_over_a_list_of_tiles():
    # A round has one of the two products; what ends a block of queries stands apart.
    assert kernel(TILES) == Kernel(1000, 800 - 200 - 250 - 100 + 250, 100)


def test_operations_that_share_their_code(tmp_path):
    (tmp_path / '17-fusion.1-00-post-bundle-packing-post-ra.txt').write_text(FUSION)
    (tmp_path / '17-TLP-01-post-bundle-packing-post-ra.txt').write_text(FUSION)
    listed = 'key:fusion.1\nordinal:3\nequivalent_hlos[size=2]:\n  fusion.1\n  fusion.8\nkey:<top>\nordinal:0\n'
    (tmp_path / '17-TLP-00-deduplication-map.txt').write_text(listed)
    assert read(tmp_path) == dict.fromkeys(('fusion.1', 'fusion.8'), kernel(FUSION))
