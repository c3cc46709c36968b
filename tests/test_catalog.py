from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest
import yaml

from splitter import catalog
from splitter.catalog import Figure
from splitter.errors import ProfileError
from splitter.profiling.device import DeviceDescription, device_names, find_device

ROOT = Path(__file__).parents[1]
PI = ROOT / "profiles/devices/raspberry-pi-4.yaml"


def test_the_devices_that_people_ask_for_are_there():
    assert {"raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "jetson-orin-nano"} <= set(
        device_names()
    )
    assert len(device_names()) >= 8


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_plausible_and_named_as_its_file(name):
    device = find_device(name)
    assert device.name == name
    assert device.flops_per_s <= device.peak_flops_per_s.float32.value
    assert device.memory_bytes_per_s.sustained.value < device.memory_bytes_per_s.peak.value
    assert device.int8_ops_per_s >= device.flops_per_s
    assert device.power is not None
    assert device.power.idle_w.value < device.power.active_w.value


@pytest.mark.parametrize("name", device_names())
def test_every_peak_rests_on_a_publication(name):
    device = find_device(name)
    peaks = [device.peak_flops_per_s.float32, device.peak_flops_per_s.int8]
    assert not any(peak.is_assumed for peak in peaks if peak)
    assert not device.memory_bytes_per_s.peak.is_assumed


def test_a_figure_says_when_it_is_an_assumption():
    assert Figure(1.0, "computed: half a day; assumption: half").is_assumed
    assert not Figure(1.0, "data sheet").is_assumed


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ProfileError, match="did you mean raspberry-pi-4"):
        find_device("raspberry-pi4")


@pytest.mark.parametrize(
    ("was", "becomes", "complaint"),
    [
        ("value: 48.0e+9", "value: -1.0", "float32.value"),
        ("value: 48.0e+9", "value: .nan", "float32.value"),
        ("value: 48.0e+9", "value: .inf", "float32.value"),
        ("value: 48.0e+9", "value: fast", "float32.value"),
        ("value: 48.0e+9", "speed: 48.0e+9", "speed"),
        ("value: 0.75", "value: 1.5", "efficiency.value"),
        ("cores: 4", "cores: 0", "cores"),
        ("cores: 4", "bores: 4", "bores"),
        ("splitter.device/1", "splitter.device/2", "schema"),
        ("names: []", "names: Relu", "unsupported_operators.names"),
        ("cores: 4", "cores: [4", "raspberry"),
    ],
)
def test_a_malformed_description_names_the_file_and_the_field(tmp_path, was, becomes, complaint):
    path = tmp_path / "raspberry.yaml"
    text = PI.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes, 1))
    with pytest.raises(ProfileError) as caught:
        find_device(str(path))
    assert complaint in str(caught.value)
    assert "raspberry.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_without_a_source_is_refused(tmp_path):
    described = yaml.safe_load(PI.read_text())
    described["memory_bytes"]["source"] = ""
    path = tmp_path / "device.yml"
    path.write_text(yaml.safe_dump(described))
    with pytest.raises(ProfileError, match=r"memory_bytes\.source"):
        find_device(str(path))


@pytest.mark.parametrize(
    "text", ["", "- 1", "&a [*a]", "!!python/object:os.system {}", "\x00", "2020-99-99"]
)
def test_a_file_that_is_no_description_is_one_clear_line(tmp_path, text):
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        find_device(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_or_enormous_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ProfileError, match="cannot be read"):
        find_device(str(tmp_path / "none.yaml"))
    monkeypatch.setattr(catalog, "MAX_DESCRIPTION_BYTES", 10)
    with pytest.raises(ProfileError, match="larger than 10 bytes"):
        find_device(str(PI))


def test_a_description_survives_being_written_and_read():
    device = find_device("raspberry-pi-4")
    again = msgspec.convert(
        yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(device))), DeviceDescription
    )
    assert again == device


def test_every_package_is_named_in_the_distribution():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "splitter").rglob("__init__.py")
    }
    assert found | {"splitter._profiles.devices", "splitter._profiles.links"} <= listed
    assert {name for name in listed if "_profiles" not in name} == found


@pytest.mark.slow
def test_an_installed_wheel_finds_the_same_descriptions(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    _copy_sources(source)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "from splitter.profiling.device import device_names\n"
        "from splitter.link_parse import find_link, link_names\n"
        "print(*device_names(), *(find_link(name).name for name in link_names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [*catalog.names("devices"), *catalog.names("links")]


def _copy_sources(target: Path) -> None:
    for pattern in ("splitter/**/*.py", "profiles/**/*.yaml", "*.toml", "*.cfg", "*.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            copy = target / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (target / "README.md").touch()
