from setuptools import find_packages, setup

setup(
    name="hilrl_teleop",
    version="0.1.0",
    description="What a person holds: gamepad, keyboard, leader arm.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_teleop", "hilrl_teleop.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_teleop"]),
        ("share/hilrl_teleop", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "joy_teleop = hilrl_teleop.joy_teleop_node:main",
            "gamepad = hilrl_teleop.gamepad_node:main",
            "keyboard = hilrl_teleop.keyboard_node:main",
            "leader = hilrl_teleop.leader_node:main",
        ],
    },
)
