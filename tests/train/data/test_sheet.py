from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfmobile.train.data.sheet import write_contact_sheet


def test_each_picture_appears_whole_with_its_caption_below(tmp_path: Path):
    images = torch.rand(5, 3, 16, 24) * 2 - 1
    path = write_contact_sheet(images, ["a", "b", "c", "d", ""], tmp_path / "new" / "sheet.png", columns=3)
    sheet = np.asarray(Image.open(path))
    expected = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for number, picture in enumerate(expected):
        x, y = 8 + number % 3 * 32, 8 + number // 3 * 64
        np.testing.assert_array_equal(sheet[y : y + 16, x : x + 24], picture)
        below = sheet[y + 16 : y + 50, x : x + 24]
        assert (below.min() < 100) == (number != 4)
