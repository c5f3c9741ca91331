"""The reference pages say what the code says; every argument and field is described; no link is dead."""

import re

import pytest
from documentation import ROOT, pages, reference

LAUNCH_FILES = reference.launch_files()
INTERFACES = sorted((ROOT / "src" / "hilrl_msgs").glob("*/*.[ms][sr][gv]"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
REPOSITORY_PATH = re.compile(
    r"(?:src|config|launch|docs|test|tools|requirements|cmake)/[\w./*-]+|[\w.-]+\.(?:md|toml)"
)
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


@pytest.mark.parametrize("name", reference.PAGES)
def test_page_agrees_with_the_code(name):
    file = reference.OUT / name
    assert file.is_file() and file.read_text() == reference.PAGES[name](), "run `make docs`"


def test_every_node_agent_and_term_has_its_parameters_described():
    # one row a parameter: an empty last cell is a missing description
    for name in ("parameters.md", "launch.md", "agents.md", "cli.md", "messages.md"):
        empty = [line for line in (reference.OUT / name).read_text().splitlines() if line.endswith("|  |")]
        assert not empty, f"{name}: {empty[0]} has no description"


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_launch_arguments_are_described_and_finite_ones_have_choices(name):
    for argument, entry in reference.launch_arguments(LAUNCH_FILES[name]).items():
        where = f"launch/{entry['from']}: argument '{argument}'"
        assert entry["description"], f"{where} has no description"
        if str(entry["default"]).lower() in ("true", "false"):
            assert sorted(entry["choices"]) == ["false", "true"], f"{where} lacks the choices true and false"
        if entry["choices"]:
            default = re.sub(r"\$\(env \w+ (.*)\)", r"\1", entry["default"])  # where the variable is not set
            assert default in entry["choices"], f"{where}: its default is not among its choices"


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_one_argument_means_one_thing(name):
    # the same name in two files has the same choices, and a description that begins alike
    mine = reference.launch_arguments(LAUNCH_FILES[name])
    for path in LAUNCH_FILES.values():
        for argument, entry in reference.launch_arguments(path).items():
            if argument in mine:
                assert entry["choices"] == mine[argument]["choices"], f"{path.name}: {argument}"


@pytest.mark.parametrize("file", INTERFACES, ids=[f.name for f in INTERFACES])
def test_message_fields_have_comments(file):
    intro, parts = reference.read_interface(file.read_text())
    assert intro, f"{file.name} begins with no comment that says what it is"
    bare = [name for part in parts for _, name, _, comment in part if not comment]
    assert not bare, f"{file.name}: no comment on {', '.join(bare)}"


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=[str(p.relative_to(ROOT)) for p in pages()])
def test_links_lead_somewhere(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        if "images/" in target:
            continue  # test_pictures_are_there
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(file), f"{page.relative_to(ROOT)}: no heading for {target}"


@pytest.mark.parametrize("page", pages(), ids=[str(p.relative_to(ROOT)) for p in pages()])
def test_paths_in_the_text_exist(page):
    for text in INLINE_CODE.findall(FENCE.sub("", page.read_text())):
        if REPOSITORY_PATH.fullmatch(text):
            found = list(ROOT.glob(text.rstrip("/")))
            assert found, f"{page.relative_to(ROOT)} names {text}, which does not exist"


def test_pictures_are_there():
    if not list((ROOT / "docs" / "images").glob("*.*")):
        pytest.skip("docs/images is empty: its pictures are taken from a finished run")
    for page in pages():
        for target in LINK.findall(FENCE.sub("", page.read_text())):
            assert "images/" not in target or (page.parent / target).exists(), f"{page.name} shows {target}"


def test_readme_names_every_package():
    readme = (ROOT / "README.md").read_text()
    for manifest in (ROOT / "src").glob("*/package.xml"):
        assert f"| `{manifest.parent.name}` |" in readme, f"README's table lacks {manifest.parent.name}"


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda f: f.name)
def test_arguments_without_default_are_handed_on(file):
    # ROS 2's include refuses to start without them, even where the command line gives them
    arguments = reference.launch_arguments(LAUNCH_FILES[file.name.removesuffix(".launch.py")])
    for argument, entry in arguments.items():
        assert entry["default"] is not None or f'LaunchConfiguration("{argument}")' in file.read_text(), (
            argument
        )
