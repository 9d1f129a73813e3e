from __future__ import annotations

import pytest
from pydantic import ValidationError

from sfmobile.errors import UsageError
from sfmobile.inspect.estimate.devices import DeviceTable, device_table

PHONES = ("12", "13", "14", "15", "16", "17")


@pytest.mark.parametrize("name", ["iphone-14-pro", "iPhone 14 Pro", "IPHONE14PRO", "iPhone15,2"])
def test_a_device_is_found_by_id_name_or_identifier(name: str) -> None:
    assert device_table().find(name).id == "iphone-14-pro"


@pytest.mark.parametrize(("name", "nearest"), [("iphone-18-pro", "iphone-17-pro"), ("mac-m9", "mac-m1"), ("", "mac")])
def test_an_unknown_device_lists_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match="the nearest are") as raised:
        device_table().find(name)
    assert nearest in str(raised.value)


def test_every_phone_from_12_to_17_pro_is_there_with_sources() -> None:
    table = device_table()
    assert all(table.find(f"iphone-{number}-pro-max") for number in PHONES)
    for chip in table.chips.values():
        assert set(chip.sources) <= set(table.sources)
        assert chip.basis or chip.fp16_tops, "a rate without a source"
    for point in table.published:
        assert point.source in table.sources
        assert table.find(point.device)


def test_a_machine_is_recognised_by_its_model_or_processor() -> None:
    table = device_table()
    phone, mac = table.of_machine("iPhone15,2", "Apple A16"), table.of_machine("Mac14,2", "Apple M2")
    assert phone is not None and phone.id == "iphone-14-pro"
    assert mac is not None and mac.chip == "M2"
    assert table.of_machine(None, "AMD EPYC") is None


def test_chips_without_a_rate_of_their_own_lead_to_one_that_has() -> None:
    table = device_table()
    base, factor = table.base_chip("A19")
    assert base == "A16" and factor == pytest.approx(1.06 * 1.25)
    assert all(table.chips[table.base_chip(chip)[0]].fp16_tops for chip in table.chips)


@pytest.mark.parametrize(
    "change",
    [
        {"chips": {"X": {"memory_gbps": 1, "sources": ["s"]}}},
        {"chips": {"X": {"memory_gbps": 1, "sources": ["s"], "like": "Y"}}},
        {"devices": [{"id": "x", "name": "x", "chip": "none", "models": [], "memory_gb": 1}]},
    ],
)
def test_a_table_that_refers_to_nothing_is_refused(change: dict[str, object]) -> None:
    content = {"version": 1, "sources": {}, "chips": {}, "devices": [], "published": [], **change}
    with pytest.raises(ValidationError):
        DeviceTable.model_validate(content)
