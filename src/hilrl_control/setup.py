from setuptools import find_packages, setup

setup(
    name="hilrl_control",
    version="0.1.0",
    description="What may reach the arm: intervention mux, arm controller, reset.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_control", "hilrl_control.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_control"]),
        ("share/hilrl_control", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "mux = hilrl_control.mux_node:main",
            "arm_controller = hilrl_control.arm_controller_node:main",
            "reset = hilrl_control.reset_node:main",
        ],
    },
)
