from setuptools import find_packages, setup

name = "hilrl_cli"

# No setup.cfg: unlike the nodes' executables (lib/<package>), `hilrl` belongs on the PATH.
setup(
    name=name,
    version="0.1.0",
    packages=find_packages(),
    package_data={name: ["label_page.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{name}"]),
        (f"share/{name}", ["package.xml"]),
    ],
    zip_safe=True,
    license="Apache-2.0",
    entry_points={"console_scripts": ["hilrl = hilrl_cli.main:main"]},
)
