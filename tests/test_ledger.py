"The ledger of claims: an id a row, verdicts from stored runs only, chapters' tables and saved measurements agree with it."
import json, re, sys
from pathlib import Path
import pytest
from mssl.ledger import CLAIMS, PARTS, TEXT_ARMS, WORDS, Compared, Ledger, Measured, Runs, claim_rows, combined, ledger, runs_where
from mssl.runs import claim_row, load_runs, save_run

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'scripts'))
import measured_claims

IDS = [f'{letter}{k + 1}' for letter, n in dict(M=15, C=9, S=9, T=7).items() for k in range(n)]

@pytest.fixture(scope='module')
def book(): return ledger()

def test_every_claim_has_exactly_one_row(book):
    assert [c.id for c in CLAIMS] == [r['claim'].id for r in book.rows] == IDS
    assert {p.claim for p in PARTS} == set(IDS) and all(r['parts'] for r in book.rows)
    assert {c.id for c in CLAIMS if c.headline} == {'M1', 'M4', 'C6', 'S1', 'S3', 'T4'}

def test_every_deciding_part_counts_and_no_verdict_is_typed_in(book):
    runs = load_runs()
    for r in book.rows:
        words = [p.row(runs)['verdict'] for p in PARTS if p.claim == r['claim'].id and p.decides]
        assert words and r['verdict'] == combined(words, r['claim'].every)

def test_the_arms_are_those_of_stored_runs():
    "A pattern or an arm that was mistyped would read 'no run stored yet' for ever"
    runs = load_runs()
    empty = sorted({o.arm for p in PARTS if isinstance(p, Compared) for o in (p.a, p.b) if not o.among(runs)})
    assert {o for o in empty if not o.startswith('image_text:')} <= set(TEXT_ARMS.values()) | {'siamese_im:parts=geometry/scale:false', 'siamese_im:parts=unigrad/dense:1/whole:1', 'siamese_im:parts=patches/ratio:.6/kind:random'}
    for p in PARTS:
        for o in (p.a, p.b) if isinstance(p, Compared) else ():
            seeds = [r.setting('seed') for r in o.among(runs)]
            assert len(seeds) == len(set(seeds)), f'{o}: two runs of one seed'

def test_verdicts_follow_the_runs(tmp_path):
    "Without runs nothing is decided; with made-up ones a verdict turns round"
    runs = {o.name: dict(o) for o in load_runs('mscn-*')}
    save_run(next(iter(runs.values())), 'other', tmp_path)
    assert all(r['verdict'] in ('no run stored yet', *(['held', 'did not hold', 'not testable here'] if any(isinstance(p, Measured) for p in PARTS if p.claim == r['claim'].id) else [])) for r in ledger(tmp_path).rows)
    naive, none = (runs_where('mscn-*', a, epochs=10, data='scenes').among(load_runs('mscn-*')) for a in ('info_nce:parts=masks/rung:naive', 'info_nce'))
    for r in [*naive, *none]:
        turned = json.loads(json.dumps(r))
        if r in naive: turned['results']['encoder']['linear'] = none[r.setting('seed')].value('linear') + .05
        save_run(turned, r.name, tmp_path)
    assert claim_rows('06')[0]['verdict'] == 'not testable here' and claim_rows('06', folder=tmp_path)[0] == claim_row('M1', 'naive mask, less no mask', [r for r in load_runs('mscn-*naive-?', tmp_path)], [r for r in load_runs('mscn-info_nce-?', tmp_path)], higher=False)
    assert claim_rows('06', folder=tmp_path)[0]['verdict'] == ledger(tmp_path)['M1']['verdict'] == 'did not hold'

def test_how_many_are_decided(book):
    "24 are the aim; what has a verdict today must not lose it unseen"
    told = book.counts['held'] + book.counts['did not hold']
    assert told >= 20 and sum(book.counts.values()) == 40
    page = json.loads((root/'nbs/13_claims.ipynb').read_text(encoding='utf-8'))['cells']
    said = '\n'.join(''.join(o.get('text', [])) for c in page for o in c.get('outputs', []))
    assert f'{told} of 40 decided' in said, 'run nbs/13_claims.ipynb again'

@pytest.mark.parametrize('words, every, word', [(['held', 'held'], True, 'held'), (['held', 'not testable here'], False, 'held'), (['held', 'not testable here'], True, 'not testable here'), (['held', 'no run stored yet'], True, 'not testable here'),
    (['held', 'did not hold'], False, 'did not hold'), (['did not hold', 'no run stored yet'], True, 'did not hold'), (['no run stored yet'], False, 'no run stored yet'), (['not testable here', 'no run stored yet'], False, 'not testable here')])
def test_from_parts_to_a_verdict(words, every, word): assert combined(words, every) == word

def test_an_unknown_word_is_refused():
    with pytest.raises(ValueError, match='words'): combined(['perhaps'])
    with pytest.raises(ValueError, match='chapter'): claim_rows('12')
    with pytest.raises(ValueError, match='values'): claim_rows('07', {'nonsense': 1})

def tables(name):
    for c in json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']:
        for o in c.get('outputs', []):
            page = ''.join(o.get('data', {}).get('text/html', ''))
            if '<table' in page and 'verdict' in page and 'measured' in page: yield measured_claims.table(page)

@pytest.mark.parametrize('name', ['06_mscn', '07_contrastive_crop', '09_siamese_im'])
def test_the_chapters_tables_are_the_ledgers(name):
    saved, = tables(name)
    rows = [{k: str(v) for k, v in r.items()} for r in claim_rows(name[:2]) if r['verdict'] != 'no run stored yet']
    assert saved == rows, f'run nbs/{name}.ipynb again, then scripts/measured_claims.py'

def test_what_chapters_measured_is_what_they_say():
    assert not measured_claims.main(check=True), 'run scripts/measured_claims.py'
    stored = json.loads((root/'mssl/stored/claims.json').read_text(encoding='utf-8'))
    for p in PARTS:
        if not isinstance(p, Measured): continue
        r, = [o for o in stored[p.chapter]['rows'] if (o['claim'], o['measured']) == (p.claim, p.what)]
        assert p.row(())['verdict'] == r['verdict'], 'the rule here and the rule in the chapter give the same word'

def test_live_values_take_the_place_of_saved_ones():
    rows = {r['measured']: r for r in claim_rows('07', {'share of the time of 100 epochs, here': .2, 'share of random pairs in which a view misses the object': [.05, .06, .07]})}
    assert rows['share of the time of 100 epochs, here']['verdict'] == 'did not hold' and rows['share of the time of 100 epochs, here']['difference'] == '.200'
    assert rows['share of random pairs in which a view misses the object'] == dict(claim='C1', verdict='did not hold', measured='share of random pairs in which a view misses the object', difference='+.060 (+.035 to +.085)', seeds='')
    undecided = claim_rows('07', {'share of random pairs in which a view misses the object': [.05, .1, .15]})[0]
    assert undecided['verdict'] == 'not testable here'

def test_nothing_in_the_figure_is_cut_off(book):
    sheet = book.figure()
    sheet.canvas.draw()
    ax, width = sheet.axes[0], sheet.bbox.width
    words = [t for t in ax.texts if t.get_ha() == 'left']
    boxes = sorted((t.get_window_extent() for t in words), key=lambda o: (o.x0, o.y0))
    left = [o for o in boxes if o.x0 < width * .4]
    assert len(words) == 44 and max(o.x1 for o in boxes) < width and max(o.x1 for o in left) < width * .502
    assert all(t.get_fontsize() >= 9 for t in ax.texts)

def test_rows_say_their_parts(book):
    page = book._repr_html_()
    assert page.count('<details') == 40 and 'mssl_compare' in page and '`' not in page and re.search(r'not testable here</b>[^<]*VICReg: heat less random: \+\.009', page)
    assert len(book.of('M').rows) == 15 and isinstance(book.of('T'), Ledger) and len(repr(book).splitlines()) == 40 and list(book.counts) == list(WORDS)
    with pytest.raises(ValueError, match='paper'): book.of('X')
    with pytest.raises(ValueError, match='id'): book['M16']
    why = {p['why'] for r in book.rows for p in r['parts'] if p['verdict'] in ('held', 'did not hold')}
    assert why == {''} and all(p['why'] for r in book.rows for p in r['parts'] if p['verdict'] not in ('held', 'did not hold'))
