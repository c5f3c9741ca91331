from setuptools import find_packages, setup

setup(
    name="hilrl_rviz",
    version="0.1.0",
    description="What rviz2 shows of a run: box and its handles, tip, target, who is in control, reward.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_rviz", "hilrl_rviz.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_rviz"]),
        ("share/hilrl_rviz", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "box_handles = hilrl_rviz.box_handles_node:main",
            "markers = hilrl_rviz.markers_node:main",
            "installed = hilrl_rviz.installed:main",
        ],
    },
)
