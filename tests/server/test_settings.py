"""Settings: flags > environment > YAML > default, and errors that name source and remedy."""

from pathlib import Path

import pytest

from engine import ConfigError, ModelStageConfig, NgramStageConfig
from server.settings import DEFAULT_CONFIG, load_settings

CONFIGS = sorted(DEFAULT_CONFIG.parent.glob("*.yaml"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text("model: from-yaml\nport: 1\ndtype: float16\nhost: yaml-host\n")
    return path


def test_flags_win_over_environment_over_yaml_over_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when two sources are merged in another order."""
    monkeypatch.setenv("STAGETREE_PORT", "2")
    monkeypatch.setenv("STAGETREE_DTYPE", "bfloat16")
    monkeypatch.setenv("STAGETREE_API_KEY", "secret")
    settings = load_settings(config, {"port": 3})
    assert (settings.port, settings.dtype, settings.host) == (3, "bfloat16", "yaml-host")
    assert settings.default_max_tokens == 16
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "secret"


def test_an_empty_variable_counts_as_unset(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETREE_API_KEY", "")
    assert load_settings(config, {}).api_key is None


def test_stages_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETREE_STAGES", "[]")
    assert load_settings(None, {}).engine_config().stages == ()


def test_without_a_config_the_embedded_family_is_served() -> None:
    engine = load_settings(None, {}).engine_config()
    assert engine.model == "embedded/target"
    assert [type(stage) for stage in engine.stages] == [ModelStageConfig, NgramStageConfig]


def test_another_model_gets_the_live_lookup_alone() -> None:
    """Red when the embedded family's stages are put under a model they do not fit."""
    engine = load_settings(None, {"model": "gpt2"}).engine_config()
    assert engine.model == "gpt2" and engine.stages == (NgramStageConfig(),)


def test_a_draft_stands_above_the_live_lookup() -> None:
    engine = load_settings(None, {"model": "gpt2-large", "draft": "gpt2"}).engine_config()
    assert engine.stages == (ModelStageConfig("gpt2"), NgramStageConfig())


@pytest.mark.parametrize("given", ["0, cpu,cuda:1", [0, "cpu", "cuda:1"]])
def test_each_device_gets_an_engine_of_its_own(given: object) -> None:
    """Red when a device is lost, or engines take more threads together than one has alone."""
    settings = load_settings(None, {"devices": given})
    configs = settings.engine_configs()
    assert [config.device for config in configs] == ["cuda:0", "cpu", "cuda:1"]
    assert [config.num_engines for config in configs] == [3] * 3
    assert settings.engine_config().device == "cuda:0", "what commands without a server use"


def test_one_device_is_one_engine() -> None:
    (config,) = load_settings(None, {"device": "cpu"}).engine_configs()
    assert (config.device, config.num_engines) == ("cpu", 1)
    (config,) = load_settings(None, {"devices": 1}).engine_configs()
    assert (config.device, config.num_engines) == ("cuda:1", 1)


def test_devices_come_from_a_variable_as_they_do_from_a_flag(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the environment must have JSON."""
    monkeypatch.setenv("STAGETREE_DEVICES", "cpu,cpu")
    assert load_settings(config, {}).devices == ("cpu", "cpu")


def test_devices_that_contradict_a_device_are_refused_with_a_remedy(config: Path) -> None:
    """Red when one of the two is silently ignored."""
    config.write_text("model: x\ndevice: cpu\n")
    with pytest.raises(ConfigError, match=r"--devices: device is 'cpu' already: leave out one"):
        load_settings(config, {"devices": "0,1"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load_settings(path, {}).engine_config().model


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prot: 1", r"some.yaml: unknown key 'prot'. Did you mean 'port'\?"),
        ("zzzzzz: 1", r"some.yaml: unknown key 'zzzzzz'. Valid names: model, "),
        ("port: high", r"some.yaml: port: Input should be a valid integer"),
        ("port: 70000", r"some.yaml: port: .*65535"),
        ("stages: [{kind: ngrm}]", r"some.yaml: stages\[0\].kind: .* Did you mean 'ngram'\?"),
        ("stages: [{kind: ngram, bugdet: 2}]", r"unknown key stages\[0\].bugdet. .*'budget'"),
        ("devices: [0, gpu1]", r"some.yaml: devices: 'gpu1' is no device: name each, such as 0,1"),
        ("devices: auto", r"some.yaml: devices: 'auto' is no device"),
        ("- a list", r"some.yaml: cannot be read as YAML"),
    ],
)
def test_a_bad_line_is_refused_by_file_key_and_remedy(
    config: Path, line: str, message: str
) -> None:
    kept = config.read_text().replace("port: 1\n", "")
    config.write_text(kept + line)
    with pytest.raises(ConfigError, match=message):
        load_settings(config, {})


def test_a_bad_flag_and_a_bad_variable_are_named(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--dtype: "):
        load_settings(config, {"dtype": "int4"})
    monkeypatch.setenv("STAGETREE_PORT", "no")
    with pytest.raises(ConfigError, match="STAGETREE_PORT: "):
        load_settings(config, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: cannot be read"):
        load_settings(tmp_path / "absent.yaml", {})
