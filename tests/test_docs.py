"""What the documentation shows really runs."""

import importlib.util
import re

import pytest
import torch
from conftest import REPO

from hetcompress.models import MODELS


def test_python_example_of_the_quick_start(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "quickstart.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    torch.save(MODELS["digits_net"].build(width=8).state_dict(), tmp_path / "model.pt")
    block = blocks[0].replace(
        'Path("model.pt")', 'Path("model.pt"), arch="hetcompress:digits_net", arch_arguments={"width": 8}'
    )
    # as small a net as this one may be fastest when it is dense
    block = block.replace('hc.report(Path("hetrun"), ', 'hc.report(Path("hetrun"), plan=hc.PlanSettings("macs"), ')
    assert "macs" in block
    exec(compile(block, "quickstart.md", "exec"), {})
    assert float(capsys.readouterr().out) > 1.5
    assert (tmp_path / "hetrun" / "export" / "model.onnx").exists()


@pytest.mark.parametrize("page", [*sorted(path.name for path in (REPO / "docs").glob("*.md")), "../README.md"])
def test_links_lead_somewhere(page):
    path = REPO / "docs" / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_table_of_accuracies_is_that_of_the_rows():
    folder = REPO / "benchmarks" / "accuracy"
    spec = importlib.util.spec_from_file_location("accuracy_table", folder / "table.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = (REPO / "docs" / "method.md").read_text()
    texts = made.tables(folder / "rows.jsonl", folder / "ablation.jsonl")
    assert made.put(page, texts) == page, "run benchmarks/accuracy/table.py --into docs/method.md"
