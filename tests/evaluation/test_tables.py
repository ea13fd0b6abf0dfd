import math

import numpy as np
import pytest

from frost.errors import InputError
from frost.evaluation.tables import parse_table, read_table, write_table


def test_a_table_read_back_is_the_table_written(tmp_path):
    rows = [
        {
            "volume": "0012",
            "patient": "7e3",
            "slice": 3,
            "ssim": np.float32(0.1),
            "psnr": 1 / 3,
            "nmse": 5e-324,
        },
        {"volume": "a,b", "patient": "", "slice": 4, "ssim": np.float64(0.1), "psnr": None, "nmse": math.inf},
    ]
    write_table(tmp_path / "table.csv", rows)
    first, second = read_table(tmp_path / "table.csv")
    assert first == rows[0]
    assert math.isnan(second.pop("psnr")) and second == {k: v for k, v in rows[1].items() if k != "psnr"}


def test_a_broken_table_is_an_error_with_its_line(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "table.csv")
    with pytest.raises(InputError, match="table: line 3"):
        parse_table("volume,ssim\na,0.5\nb,high\n", "table")
    with pytest.raises(InputError, match="line 2 should have 2 cells"):
        parse_table("volume,ssim\na\n", "table")
    with pytest.raises(InputError, match="table: line 2: not csv: field larger"):
        parse_table(f"volume,ssim\n{'a' * 200_000},1\n", "table")
