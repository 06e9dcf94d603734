from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

# settings.ini is the one place where names, versions, addresses and requirements are written down
root = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
docs_url = cfg['doc_host'] + cfg['doc_baseurl']

statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
classifiers = [
    f"Development Status :: {statuses[int(cfg['status'])-1]}",
    f"Intended Audience :: {cfg['audience']}", 'Intended Audience :: Education', 'Intended Audience :: Science/Research',
    f"Natural Language :: {cfg['language']}", 'Operating System :: OS Independent',
    'Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only',
    *[f'Programming Language :: Python :: {v}' for v in cfg['python_versions'].split()],
    'Framework :: Jupyter', 'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Recognition']

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    project_urls={'Documentation': docs_url, 'Source': cfg['git_url'], 'Issues': cfg['git_url'] + '/issues',
                  'Changelog': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    license='Apache-2.0', license_files=['LICENSE', 'LICENSE-TEXT'], classifiers=classifiers,
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['mssl', 'mssl.*']), include_package_data=True, python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'test': cfg['test_requirements'].split(),
                    'distributed': cfg['distributed_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
