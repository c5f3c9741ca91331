from setuptools import find_packages, setup

setup(
    name="hilrl_sim",
    version="0.1.0",
    description="MuJoCo simulator node, emulated arm, Gazebo's world, scenes, scripted operator.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_sim", "hilrl_sim.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_sim"]),
        ("share/hilrl_sim", ["package.xml"]),
    ],
    install_requires=["setuptools", "mujoco>=3.10"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "simulator = hilrl_sim.simulator_node:main",
            "emulated_arm = hilrl_sim.twin_node:main",
            "operator = hilrl_sim.operator_node:main",
            "gazebo = hilrl_sim.gazebo.gazebo_node:main",
            "gazebo_files = hilrl_sim.gazebo.files:main",
        ],
    },
)
