from setuptools import find_packages, setup

setup(
    name="so101_description",
    version="0.1.0",
    description="URDF of the SO-101 for robot_state_publisher, rviz2 and ros2_control, with absolute mesh paths.",
    maintainer="hilrl developers",
    maintainer_email="maintainers@hilrl.org",
    license="Apache-2.0",
    packages=find_packages(include=["so101_description", "so101_description.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/so101_description"]),
        ("share/so101_description", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={"console_scripts": ["urdf = so101_description.urdf:main"]},
)
