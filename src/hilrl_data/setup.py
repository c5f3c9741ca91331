from setuptools import find_packages, setup

setup(
    name="hilrl_data",
    version="0.1.0",
    description="Recorder, bags, offline loading.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["hilrl_data", "hilrl_data.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/hilrl_data"]),
        ("share/hilrl_data", ["package.xml"]),
    ],
    install_requires=["setuptools", "av", "pyarrow", "rosbags"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "recorder = hilrl_data.recorder_node:main",
        ],
    },
)
