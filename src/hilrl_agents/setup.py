import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "hilrl_agents"
# package.xml is the one place for version and description; pip reads them from here.
MANIFEST = Path(__file__).with_name("package.xml").read_text(encoding="utf-8")


def manifest(tag):
    return re.search(rf"<{tag}[^>]*>([^<]+)</{tag}>", MANIFEST).group(1)


setup(
    name=NAME,
    version=manifest("version"),
    description=manifest("description"),
    maintainer=manifest("maintainer"),
    maintainer_email="maintainers@hilrl.org",
    license=manifest("license"),
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools", "numpy>=1.21", "torch>=2.4", "safetensors>=0.4", "PyYAML"],
    extras_require={"examples": ["gymnasium"]},
    python_requires=">=3.10",
    zip_safe=True,
)
