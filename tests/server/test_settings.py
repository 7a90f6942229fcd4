"""Settings: flags > environment > YAML > default, and errors that name source and remedy."""

from pathlib import Path

import pytest

from engine import (
    ConfigError,
    ModelLoadError,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
)
from server.settings import Settings
from server.sources import DEFAULT_CONFIG, load_settings

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
    assert (settings.port, settings.engine.dtype, settings.host) == (3, "bfloat16", "yaml-host")
    assert settings.default_max_tokens == 16
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "secret"


def test_an_empty_variable_counts_as_unset(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETREE_PORT", "")
    monkeypatch.setenv("STAGETREE_DRAFT", "")
    settings = load_settings(config, {})
    assert (settings.port, settings.draft) == (1, None)


@pytest.mark.parametrize("key", ["", "  ", ",", " , "])
def test_an_empty_key_is_no_way_to_have_none(
    config: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Red when a server that was to ask for a key serves whoever comes."""
    with monkeypatch.context() as patch:
        patch.setenv("STAGETREE_API_KEY", key)
        with pytest.raises(ConfigError, match="STAGETREE_API_KEY: it is empty: give a key, or"):
            load_settings(config, {})
    with pytest.raises(ConfigError, match="--api-key: it is empty"):
        load_settings(config, {"api_key": key})
    for line in (f"api_key: '{key}'", "api_key:"):
        config.write_text(f"model: x\n{line}\n")
        with pytest.raises(ConfigError, match=r"some.yaml: api_key: it is empty"):
            load_settings(config, {})
    config.write_text("model: x\n")
    assert load_settings(config, {}).api_key is None


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("STAGETREE_MODLE", "MODEL"), ("stagetree_api_kye", "API_KEY"), ("STAGETREE_PROT", "PORT")],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    config: Path, monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    """Red when a setting of the environment is ignored for a typing error."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError, match=rf"Did you mean STAGETREE_{meant}\?"):
        load_settings(config, {})


@pytest.mark.parametrize("name", ["SERVICE_HOST", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"])
def test_a_variable_that_means_something_else_is_told_and_ignored(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Red when what a cluster says of a service named like us ends the server, or nobody hears."""
    monkeypatch.setenv(f"STAGETREE_{name}", "10.0.0.1")
    assert load_settings(config, {}).port == 1
    assert f"STAGETREE_{name}: there is no such setting; it changes nothing." in caplog.text


def test_home_is_home_in_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    """Red when a folder named ~ is made or looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("m", "d", "a"):
        (tmp_path / name).mkdir()
    stages = "[{kind: model, model: ~/d}, {kind: ngram, table: ~/t}]"
    config.write_text(
        f"model: ~/m\ncache_dir: ~/c\nstages: {stages}\n"
        "alternatives: [{kind: head, model: ~/a}]\n"
    )
    engine = load_settings(Path("~/some.yaml"), {}).engine
    assert (engine.model, engine.cache_dir) == (f"{tmp_path}/m", f"{tmp_path}/c")
    assert engine.stages == (
        ModelStageConfig(f"{tmp_path}/d"),
        NgramStageConfig(table=f"{tmp_path}/t"),
    )
    assert engine.alternatives[0].model == f"{tmp_path}/a"  # type: ignore[union-attr]
    monkeypatch.setenv("STAGETREE_CACHE_DIR", "~/e")
    settings = load_settings(config, {"model": "~/d", "draft": "~/a"})
    assert settings.engine.model == f"{tmp_path}/d"
    assert settings.engine.stages[0] == ModelStageConfig(f"{tmp_path}/a")
    assert settings.engine.cache_dir == f"{tmp_path}/e"


@pytest.mark.parametrize("name", ["~/no", "./no", "../no", "/no/such", "no/", "a/b/c", "no such"])
def test_a_folder_that_is_not_there_is_called_one(config: Path, name: str) -> None:
    """Red when the hub is asked for what can only be a folder."""
    config.write_text("stages: []\nalternatives: []\n")
    for flags in ({"model": name}, {"model": "gpt2-large", "draft": name}):
        with pytest.raises(ModelLoadError, match="there is no folder"):
            load_settings(None, flags)
    config.write_text(f"model: gpt2\nstages: [{{kind: head, model: '{name}'}}]\n")
    with pytest.raises(ModelLoadError, match="there is no folder"):
        load_settings(config, {})


@pytest.mark.parametrize(
    ("name", "reason"), [(__file__, "is a file"), ("embedded/no", "there is no folder")]
)
def test_what_cannot_be_loaded_is_told_before_a_server_starts(name: str, reason: str) -> None:
    """Red when the server and its engine have two rules of what a name means."""
    with pytest.raises(ModelLoadError, match=reason):
        load_settings(None, {"model": name})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_says_how_it_is_encoded(config: Path, encoding: str) -> None:
    """Red when a file that an editor of Windows has written is no YAML."""
    config.write_text("model: x\nserved_model_name: größe\n", encoding=encoding)
    assert load_settings(config, {}).served_model_name == "größe"


@pytest.mark.parametrize(
    "content",
    [
        "served_model_name: größe\n".encode("latin-1"),
        "model: x\n".encode("utf-16-le"),
        b"model: x\0",
        b"\xff\xfem",
        b"stages: " + b"[" * 5000 + b"]" * 5000,
        b"model: " + b"{a: " * 3000,
        b"host: 2020-99-99",
        b"model: &a [*a]",
        b"stages: &a [*a]",
        b"stages: [&a {kind: *a, model: *a}]",
        b"{[]: 1}",
        b"? {a: b}\n: 1",
        b"model: !!python/object/apply:os.system [id]",
        b"\t- a\n\tb: [",
    ],
    ids=range(14),
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(config: Path, content: bytes) -> None:
    """Red when a library's exception, or its many lines, come through."""
    config.write_bytes(content)
    with pytest.raises(ConfigError, match=r"some.yaml: ") as refusal:
        load_settings(config, {})
    assert len(str(refusal.value).splitlines()) == 1


def test_stages_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETREE_STAGES", "[]")
    assert load_settings(None, {}).engine.stages == ()


def test_without_a_config_the_embedded_family_is_served() -> None:
    engine = load_settings(None, {}).engine
    assert engine.model == "embedded/target"
    assert [type(stage) for stage in engine.stages] == [ModelStageConfig, NgramStageConfig]


def test_another_model_gets_the_stages_that_fit_any() -> None:
    """Red when the embedded family's stages are put under a model they do not fit."""
    engine = load_settings(None, {"model": "gpt2"}).engine
    assert engine.model == "gpt2"
    assert [type(stage) for stage in engine.stages] == [NgramStageConfig, RecycleStageConfig]
    assert engine.stages[0].budget == 16  # a prediction is one long branch


def test_a_draft_stands_above_the_live_lookup() -> None:
    engine = load_settings(None, {"model": "gpt2-large", "draft": "gpt2"}).engine
    assert engine.stages == (ModelStageConfig("gpt2"), NgramStageConfig())


@pytest.mark.parametrize("given", ["0, cpu,cuda:1", [0, "cpu", "cuda:1"]])
def test_each_device_gets_an_engine_of_its_own(given: object) -> None:
    """Red when a device is lost, or engines take more threads together than one has alone."""
    settings = load_settings(None, {"devices": given})
    configs = settings.engine_configs()
    assert [config.device for config in configs] == ["cuda:0", "cpu", "cuda:1"]
    assert [config.num_engines for config in configs] == [3] * 3
    assert settings.command_config("wait").device == "cuda:0", "what commands without a server use"


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
    assert load_settings(path, {}).engine.model


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
        load_settings(config, {"dtype": "int3"})
    monkeypatch.setenv("STAGETREE_PORT", "no")
    with pytest.raises(ConfigError, match="STAGETREE_PORT: "):
        load_settings(config, {})


def test_a_variable_is_read_as_the_field_of_the_engine_that_it_means(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a number stays a text, or a name that looks like a number does not."""
    monkeypatch.setenv("STAGETREE_THREADS", "3")
    monkeypatch.setenv("STAGETREE_MAX_MODEL_LEN", "512")
    monkeypatch.setenv("STAGETREE_MODEL", "123")
    engine = load_settings(config, {}).engine
    assert (engine.threads, engine.max_model_len, engine.model) == (3, 512, "123")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("THREADS", "x", "^STAGETREE_THREADS: threads must be a whole number, .* it is 'x'"),
        ("DTYPE", "int3", "^STAGETREE_DTYPE: dtype must be one of auto, float32"),
        ("STAGES", "[{", "^STAGETREE_STAGES: stages must be a list of stages"),
        ("STAGES", "[" * 100_000, "^STAGETREE_STAGES: stages must be a list of stages"),
        ("STAGES", '[{"kind": "ngrm"}]', r"^STAGETREE_STAGES: stages\[0\].kind: .*'ngram'"),
        ("STAGES", '[{"kind": "model"}]', r"^STAGETREE_STAGES: stages\[0\].model is missing"),
    ],
    ids=range(6),
)
def test_what_the_engine_cannot_use_is_blamed_on_the_variable(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """Red when a stage's key is taken for a setting, such as the model that a flag names."""
    monkeypatch.setenv(f"STAGETREE_{name}", value)
    with pytest.raises(ConfigError, match=message):
        load_settings(config, {"model": "gpt2"})


def test_a_setting_of_the_engine_is_listed_there_alone() -> None:
    """Red when a list of the engine's settings comes back."""
    assert len(set(Settings.names())) == len(Settings.names())
    assert {"model", "stages", "compile", "port", "devices"} <= set(Settings.names())
    assert "num_engines" not in Settings.names()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*absent.yaml"):
        load_settings(tmp_path / "absent.yaml", {})
