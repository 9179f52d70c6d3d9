# SPDX-License-Identifier: Apache-2.0
"""Compares our models with numeric references: python tests/parity/check.py FILE... [--page docs/parity.md]

Prints a row for each file, and writes them as a page; exits with 1 when one disagrees, cannot be read or has no case.
An output passes when max|ours - theirs| / max|theirs| is at most ten times the noise that the file states for it, 5e-6
where it states none.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    # Run as a script, it takes the checkout that it lies in.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import blip
import cases
import composed
import crossed
import detected
import jax
import languages
import native
import spliced
import towers
from harness import Result
from references import Reference, read_reference, relative_error

from mmjax.weights import cohere, fuyu, gemma, gpt2, llama, opt, qwen

# By class; formulas without weights, which are no class of anybody's, by the name of their file.
CASES: dict[str, Callable[[Reference], Result]] = {
    'BaseModel': detected.run_butd,
    'BertForMaskedLM': languages.run_bert,
    'BlipForConditionalGeneration': blip.run_captioner,
    'BlipForImageTextRetrieval': blip.run_retriever,
    'BlipForQuestionAnswering': blip.run_answerer,
    'Blip2ForConditionalGeneration': blip.run_blip2,
    'Blip2ForImageTextRetrieval': blip.run_blip2_retriever,
    'blip_itc_momentum': blip.run_momentum,
    'CLIP': cases.run_openai_clip,
    'CLIPModel': cases.run_clip,
    'CogVLMForCausalLM': spliced.run_cogvlm,
    'CohereForCausalLM': cases.language_model(cohere.config, cohere.table),
    'Flamingo': crossed.run_openflamingo,
    'Data2VecVisionForImageClassification': towers.run_data2vec_classifier,
    'Data2VecVisionModel': towers.run_data2vec,
    'data2vec_loss': towers.run_data2vec_loss,
    'Florence2ForConditionalGeneration': languages.run_florence,
    'FuyuForCausalLM': cases.run_fuyu,
    'Gemma2ForCausalLM': cases.language_model(gemma.gemma2, gemma.table),
    'Gemma3ForCausalLM': cases.language_model(gemma.gemma3, gemma.table),
    'Gemma3ForConditionalGeneration': spliced.run_gemma3,
    'GPT2LMHeadModel': cases.language_model(gpt2.config, gpt2.table),
    'GeoRegionSampler': spliced.run_region_sampler,
    'GatedCrossAttentionBlock': crossed.run_gated_block,
    'IdeficsForVisionText2Text': crossed.run_idefics,
    'ImageBindModel': towers.run_imagebind,
    'InstructBlipForConditionalGeneration': blip.run_blip2,
    'InstructBlipVideoForConditionalGeneration': blip.run_blip2,
    'Kosmos2ForConditionalGeneration': cases.run_kosmos2,
    'Kosmos2_5ForConditionalGeneration': spliced.run_kosmos25,
    'InternVLForConditionalGeneration': spliced.run_internvl,
    'LlamaForCausalLM': cases.language_model(llama.config, llama.table),
    'LlavaForConditionalGeneration': cases.run_llava,
    'OPTForCausalLM': cases.language_model(opt.config, opt.table, skips=True),
    'LlavaNextForConditionalGeneration': spliced.run_llava_next,
    'LlavaOnevisionForConditionalGeneration': spliced.run_llava_next,
    'Parts': detected.run_anomalygpt,
    'PaLME': composed.searched(composed.run_palme),
    'PaliGemmaForConditionalGeneration': spliced.run_paligemma,
    'PerceiverResampler': crossed.run_resampler,
    'PersimmonForCausalLM': cases.language_model(fuyu.decoder, fuyu.decoder_table),
    'Qwen2ForCausalLM': cases.language_model(qwen.qwen2, qwen.table),
    'Qwen3ForCausalLM': cases.language_model(qwen.qwen3, qwen.table),
    'Qwen2_5_VLForConditionalGeneration': native.run_qwen2_5,
    'Qwen3VLForConditionalGeneration': native.run_qwen3,
    'QWenLMHeadModel': spliced.run_qwen_vl,
    'Shikra': composed.searched(composed.run_shikra),
    'SiglipModel': cases.run_siglip,
    'Stage1': blip.run_stage_one,
    'TB': blip.run_textbind,
    'T5ForConditionalGeneration': languages.run_t5,
    'ViTMAEForPreTraining': towers.run_mae,
    'SmolVLMForConditionalGeneration': spliced.run_smolvlm,
}


@dataclasses.dataclass
class Row:
    """The verdict on one file: the output that is worst, compared with what it may be."""

    name: str
    compared: str = ''
    error: float = float('nan')
    bound: float = float('nan')
    detail: str = ''
    ok: bool = False


def check(path: str | pathlib.Path) -> Row:
    """Runs one reference."""
    reference = read_reference(path)
    # What has no class, a formula alone, goes by the name of its file.
    case = CASES.get(reference.kind, CASES.get(reference.name))
    if case is None:
        return Row(reference.name, detail=f'no case for the class {reference.kind}')
    with jax.default_matmul_precision('highest'):
        result = case(reference)
    missing = sorted(reference.outputs.keys() - result.outputs.keys())
    if missing:
        return Row(reference.name, ','.join(sorted(result.outputs)), detail=f'not computed: {", ".join(missing)}')
    errors = {}
    for name, theirs in sorted(reference.outputs.items()):
        errors[name] = relative_error(result.outputs[name], theirs, result.places.get(name))
    worst = max(errors, key=lambda name: errors[name] / reference.bound(name))
    account = result.account
    detail = f'{len(account.used)} tensors, written back alike'
    detail += f', {len(account.ignored)} ignored' * bool(account.ignored) + f', {result.note}' * bool(result.note)
    ok = all(error <= reference.bound(name) for name, error in errors.items())
    marked = ','.join(f'*{name}' if name == worst else name for name in errors)
    return Row(reference.name, marked, errors[worst], reference.bound(worst), detail, ok)


PAGE = """# Parity

Each row is a tiny model with random weights that a public implementation ran once in float32 (transformers, or the
system's own modules); ours has the same weights, read through the name table of their public layout and written back
bit by bit. The error is max|ours - theirs| / max|theirs| of the output that is worst (marked \\*), its bound ten times
the float32 noise of the public implementation itself, 5e-6 where nobody measured that. Written with jax {jax} by
`python tests/parity/check.py FILE... --page docs/parity.md`.

{right} of {all} agree.

"""


def page(table: list[tuple[str, ...]], right: int) -> str:
    """Returns the table as Markdown."""
    line = lambda cells: '| ' + ' | '.join(cell.replace('|', '\\|').replace('*', '\\*') for cell in cells) + ' |'
    lines = [line(table[0]), '|---' * len(table[0]) + '|', *map(line, table[1:])]
    return PAGE.format(jax=jax.__version__, right=right, all=len(table) - 1) + '\n'.join(lines) + '\n'


def main(files: list[str], to: str | None = None) -> int:
    """Prints the table, and writes the page; returns the exit code."""
    rows = []
    for file in files:
        try:
            rows.append(check(file))
        except Exception as error:  # one bad file must not hide the others
            traceback.print_exc()
            rows.append(Row(pathlib.Path(file).stem, detail=f'{type(error).__name__}: {error}'))
    head = ('reference', 'compared (* = worst)', 'error', 'bound', 'status', 'weights')
    table = [head] + [
        (r.name, r.compared, f'{r.error:.1e}', f'{r.bound:.1e}', 'ok' if r.ok else 'FAIL', r.detail) for r in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if to:
        pathlib.Path(to).write_text(page(table, sum(r.ok for r in rows)))
    return int(not all(r.ok for r in rows))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', metavar='FILE')
    parser.add_argument('--page', help='where to write the table as Markdown')
    given = parser.parse_args()
    sys.exit(main(given.files, given.page))
