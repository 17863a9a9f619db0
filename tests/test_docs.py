"""What the documentation shows really runs."""

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
