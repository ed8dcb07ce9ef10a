from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from popgpt.config import (
    FOREIGN,
    Config,
    divisors,
    dump_yaml,
    load_config,
    make_config,
    may_agree,
    merge,
    parse_overrides,
    parse_yaml,
    read_yaml,
    where_from,
)
from popgpt.text.errors import UserError


def made(*words: str) -> Config:
    return make_config(merge({}, parse_overrides(words)))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("learning_rte=1e-3", "unknown parameter learning_rte=0.001; did you mean learning_rate?"),
        ("n_layer=x", "n_layer='x' should be an integer"),
        ("n_layer=2.0", "n_layer=2.0 should be an integer"),
        ("n_layer=0", "n_layer=0 should be greater than 0"),
        ("bias=1", "bias=1 should be true or false"),
        ("dropout=1", "dropout=1 should be less than 1"),
        ("dtype=float16", "dtype='float16' should be 'float32' or 'bfloat16'"),
        ("mask_before_token=ab", "mask_before_token='ab' should be separator, one character, or null"),
        ("d_head=24", "d_head=24 does not divide d_model=128; nearest that does: d_head=16 (or d_model=120)"),
        ("n_head=3", "n_head=3 does not divide d_model=128; nearest that does: n_head=2 (or d_model=129)"),
        ("min_lr=1", "min_lr=1 should be at most learning_rate=0.003"),
        ("workers=1000", "workers=1000 should be at most the 128 rows of an iteration"),
        ("task.operations=++", "task: operations='++' should name each operation once"),
        ("learning_rate=.inf", "learning_rate=inf should be a finite number"),
        ("learning_rate=1e308", "learning_rate=1e+308 should be at most 1e+30"),
        (f"seed={2**63}", f"seed={2**63} should be less than {2**63}"),
        (f"data_seed={10**30}", f"data_seed={10**30} should be less than {2**63}"),
        ("seed=2020-13-45", "seed='2020-13-45' should be an integer"),
        ("block_size=1000000000000", "block_size=1000000000000 should be at most 1048576"),
        ("d_model=1000000000", "d_model=1000000000 should be at most 65536"),
        ("batch_size=10000000000", "batch_size=10000000000 should be at most 1048576"),
        ("n_layer=1000000000000", "n_layer=1000000000000 should be at most 1024"),
        ("max_iters=10000000000", "max_iters=10000000000 should be at most 2147483648"),
        ("out_dir=a\0b", r"out_dir='a\x00b' should hold no NUL character"),
        ("data_dir=\ud800", r"data_dir='\ud800' should be a string, unable to parse raw data as a unicode string"),
    ],
)
def test_a_mistake_is_one_line_that_names_key_value_and_remedy(word: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        made(word)
    assert str(refused.value) == f"config: {said}"


@pytest.mark.parametrize("word", ["learning_rate", "=3"])
def test_an_override_without_a_value_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="should be key=value"):
        parse_overrides([word])


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 3000, "[1", "!!timestamp 3", "!!int 0b_", "{a: 1, a: 2}"])
def test_a_value_that_no_yaml_is_refused_in_one_short_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="the value is not valid YAML") as refused:
        parse_overrides([f"seed={text}"])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
    (tmp_path / "c.yaml").write_text(f"seed: {text}\n")
    with pytest.raises(UserError, match="not valid YAML") as refused:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["learning_rate=" + "9" * 4000, "out_dir=" + "x" * 300, "dataset=" + "x" * 300])
def test_a_value_of_many_characters_is_refused_in_one_short_line(word: str) -> None:
    with pytest.raises(UserError) as refused:
        made(word)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["d_head", "n_head", "min_lr", "lr_decay_iters"])
def test_null_is_derived_as_if_left_out(tmp_path: Path, name: str) -> None:
    assert made(f"{name}=null") == make_config({name: None}) == Config()
    (tmp_path / "c.yaml").write_text(f"{name}: null\n")
    assert where_from(tmp_path / "c.yaml")[name] == "default"
    assert where_from(tmp_path / "c.yaml", [f"{name}=null", "max_iters=9", "d_model=64", "learning_rate=1"])[name] == (
        "derived"
    )


def test_null_for_one_head_parameter_leaves_the_files_other() -> None:
    assert made("n_head=8", "d_head=null").d_head == 16
    assert make_config(merge({"n_head": 8, "d_head": 16}, {"d_head": None})).n_head == 8


def test_a_mistake_is_blamed_on_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("dropout: 2\nd_model: 100\n")
    with pytest.raises(UserError) as refused:
        load_config(path, ["seed=-1", "n_embd=0", "d_head=1"])
    assert str(refused.value).splitlines() == [
        "command line: seed=-1 should be greater than or equal to 0",
        "command line: d_model=0 should be greater than 0",
        f"{path}: dropout=2 should be less than 1",
    ]
    path.write_text("d_model: 100\nd_head: 16\n")
    with pytest.raises(UserError, match=f"^{path}: d_head=16 does not divide"):
        load_config(path, ["seed=1"])
    with pytest.raises(UserError, match=r"^command line: d_head=32 does not divide"):
        load_config(path, ["d_head=32"])


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("<<: {d_head: 16, n_layer: 3}\nn_layer: 4\n")
    assert (load_config(path).d_head, load_config(path).n_layer) == (16, 4)
    path.write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_shipped_configs_have_places_of_their_own_and_rows_for_their_lines(path: Path) -> None:
    config = load_config(path)
    assert config.out_dir == f"out/{path.stem}"
    assert config.dataset == path.stem
    assert config.open_view("", config.task.separator).longest_line <= config.block_size


def test_a_search_space_is_no_config() -> None:
    space = Path(__file__).parent.parent / "search_spaces" / "calculator.yaml"
    with pytest.raises(UserError, match=r"calculator\.yaml: a search space, .* python -m popgpt\.tune") as refused:
        load_config(space)
    assert "\n" not in str(refused.value)


def test_heads_follow_from_each_other_and_must_agree() -> None:
    assert (made("d_model=64", "n_head=2").d_head, made("d_model=64", "d_head=16").n_head) == (32, 4)
    assert made("n_embd=64").d_model == 64
    with pytest.raises(UserError, match="d_head=16 and n_head=4 disagree: their product should be d_model=128"):
        made("d_head=16", "n_head=4")
    with pytest.raises(UserError, match="n_embd=64 and d_model=32 are one parameter"):
        made("n_embd=64", "d_model=32")


def test_naming_a_head_width_replaces_the_files_number_of_heads() -> None:
    assert make_config(merge({"n_head": 4}, {"d_head": 64})).n_head == 2


def test_derived_values_follow_what_they_derive_from() -> None:
    config = made("max_iters=70", "learning_rate=0.01")
    assert (config.lr_decay_iters, config.min_lr) == (70, 0.001)
    assert made("max_iters=20", "warmup_iters=50").lr_decay_iters == 50


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("learning_rate=1", "learning_rate", 1.0),
        ("mask_before_token==", "mask_before_token", "="),
        ("mask_before_token=null", "mask_before_token", None),
        ("dataset=007", "dataset", "007"),
        ("compile=true", "compile", True),
        ("wandb_run_name=yes", "wandb_run_name", "yes"),
    ],
)
def test_overrides_take_the_type_of_their_parameter(word: str, key: str, value: object) -> None:
    assert getattr(made(word), key) == value


@given(st.floats(1e-8, 1e3), st.integers(1, 10**6), st.booleans(), st.sampled_from(["+", "-*", "+-*/"]))
def test_a_config_survives_yaml(learning_rate: float, max_iters: int, bias: bool, operations: str) -> None:
    config = make_config(
        {"learning_rate": learning_rate, "max_iters": max_iters, "bias": bias, "task": {"operations": operations}}
    )
    assert make_config(yaml.safe_load(dump_yaml(config.model_dump()))) == config


def test_files_that_are_no_config_are_refused_in_one_line(tmp_path: Path) -> None:
    cases = {
        "twice.yaml": ("seed: 1\nseed: 2\n", "seed is given twice"),
        "list.yaml": ("- 1\n", "should be a mapping of parameters"),
        "bad.yaml": ("a: [1\n", "not valid YAML"),
        "object.yaml": ("seed: !!python/object:os.system {}\n", "not valid YAML"),
    }
    for name, (text, said) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said) as refused:
            load_config(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_yaml(tmp_path / "empty.yaml") == {}
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        load_config(tmp_path / "bytes.yaml")


def test_overrides_go_on_top_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("n_layer: 3\nlearning_rate: 1e-3\n")
    config = load_config(tmp_path / "c.yaml", ["n_layer=4", "n_layer=5"])
    assert (config.n_layer, config.learning_rate) == (5, 1e-3)


def test_every_parameter_says_what_it_means() -> None:
    assert [name for name, field in Config.model_fields.items() if not field.description] == []


CORE = {  # of YAML 1.2.2, 10.3
    "010": 10,
    "0o17": 15,
    "0x1F": 31,
    "+12": 12,
    "1:30": "1:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "0o8": "0o8",
    "1e3": 1000.0,
    "1e-3": 0.001,
    "1.": 1.0,
    ".5": 0.5,
    "-.INF": float("-inf"),
    "true": True,
    "TRUE": True,
    "tRUE": "tRUE",
    "yes": "yes",
    "on": "on",
    "~": None,
    "Null": None,
    "nULL": "nULL",
    "": None,
    "=": "=",
    "<<": "<<",
    "2020-01-01": "2020-01-01",
    "!!str 010": "010",
    "'1e3'": "1e3",
}


@pytest.mark.parametrize("text", CORE)
def test_yaml_is_read_by_the_core_schema_of_1_2(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(f"seed: {text}\n")
    read = read_yaml(tmp_path / "c.yaml")["seed"]
    assert (read, type(read)) == (CORE[text], type(CORE[text]))
    assert repr(parse_overrides([f"seed={text}"])["seed"]) == repr(CORE[text])


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch_size: 1:30", "batch_size='1:30' should be an integer"),
        ("batch_size: 1_000", "batch_size='1_000' should be an integer"),
        ("bias: yes", "bias='yes' should be true or false"),
        ("learning_rate: .nan", "learning_rate=nan should be a finite number"),
        ("seed: 0x" + "f" * 5000, "not valid YAML: a number of 5002 digits"),
        ("seed: !!int 0b1", "not valid YAML: '0b1' is no int"),
        ("a: &a [1]\nb: &b [*a, *a, *b]", "an alias stands inside what it names"),
        ("x" * 70_000, "70000 characters are too many; at most 65536"),
        (LAUGHS, "more than 65536 values, aliases followed"),
        ("d_model = 64  # D\nbias = True\n", ":1: 'd_model = 64  # D' is Python; a config is YAML: 'd_model: 64'"),
        ("# a comment\nseed: 1\nbias=True\n", ":3: 'bias=True' is Python; a config is YAML: 'bias: true'"),
    ],
)
def test_a_text_that_is_read_otherwise_is_refused_in_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_config(tmp_path / "c.yaml")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text) | st.sampled_from(list(CORE)[:-2])


@given(TEXTS.filter(bool), st.floats(1e-8, 1e3), st.none() | st.sampled_from(["separator", "=", "~", "0", "\t"]))
def test_what_is_written_reads_back_by_1_1_and_by_1_2(name: str, learning_rate: float, mask: str | None) -> None:
    given = {"wandb_run_name": name, "learning_rate": learning_rate, "mask_before_token": mask, "min_lr": 0.0}
    text = dump_yaml(given)
    assert parse_yaml(text.encode(), "c.yaml") == yaml.safe_load(text) == given


FOREIGN_NAMES = [
    ("lr", "; did you mean learning_rate?"),
    ("n_heads", "; did you mean n_head?"),
    ("max_steps", "; did you mean max_iters?"),
    ("Batch-Size", "; did you mean batch_size?"),
    ("hidden_size", "; did you mean d_model?"),
    ("decay_lr", "; a rate that does not decay is min_lr equal to learning_rate"),
    ("epochs", "; a run is measured in iterations, max_iters; explain says how many epochs they are"),
    ("zzz", "; see --help for the known ones"),
]


@pytest.mark.parametrize(("name", "hint"), FOREIGN_NAMES)
def test_other_programs_names_are_known(name: str, hint: str) -> None:
    with pytest.raises(UserError) as refused:
        made(f"{name}=1")
    assert str(refused.value) == f"config: unknown parameter {name}=1{hint}"


def test_every_foreign_name_is_none_of_ours_and_points_to_one_that_is() -> None:
    assert not FOREIGN.keys() & Config.model_fields.keys()
    assert {meant for meant in FOREIGN.values() if " " not in meant} <= Config.model_fields.keys()


def test_many_mistakes_are_not_all_told() -> None:
    with pytest.raises(UserError) as refused:
        make_config({f"name{number}": number for number in range(5000)})
    assert str(refused.value).splitlines()[-1] == "and 4980 more mistakes"


def test_control_characters_are_not_echoed(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('"\\e[31mseed": 1\ndtype: "\\a"\n')
    with pytest.raises(UserError) as refused:
        load_config(tmp_path / "c.yaml", ["\x1b[2J=1"])
    lines = str(refused.value).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


@given(st.integers(1, 5000))
def test_divisors_are_all_that_divide(whole: int) -> None:
    assert divisors(whole) == tuple(d for d in range(1, whole + 1) if whole % d == 0)


def test_divisors_of_large_numbers_take_no_time() -> None:
    begun = time.process_time()
    assert divisors(2**31 - 1) == (1, 2**31 - 1)
    assert len(divisors(2**31)) == 32
    assert time.process_time() - begun < 0.5


def test_an_empty_value_and_a_file_that_is_an_override_get_a_hint() -> None:
    with pytest.raises(UserError, match="data_dir='' should not be empty; leave it out for the default"):
        made("data_dir=")
    with pytest.raises(UserError, match="seed=1: No such file or directory; the file comes first, then key=value"):
        load_config("seed=1")


def test_a_mask_up_to_the_separator_may_be_one_up_to_a_character() -> None:
    assert may_agree("mask_before_token", "separator", "=")
    assert not may_agree("mask_before_token", "separator", None)
    assert not may_agree("mask_before_token", ":", "=")
    assert not may_agree("dataset", "separator", "=")
