"""What chapters measure themselves, read from their saved tables of claims into mssl/stored/claims.json, from which `mssl.ledger` makes verdicts.

    python scripts/measured_claims.py            write the file
    python scripts/measured_claims.py --check    change nothing; exit status 1 if it is out of date
"""
import argparse, html, json, re, sys
from project import root, chapters, write

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def numbers(said:str): # '6.27 (5.76 to 6.78)' or '.006' -> mean, low, high
    "Mean and interval as they are printed; without an interval all three are the number itself"
    found = [float(o) for o in re.findall(r'[-+]?\d*\.\d+|[-+]?\d+', said)]
    return found if len(found) == 3 else found * 3

def table(page:str): # HTML of a DataFrame -> rows as dicts
    "Rows of a table by the names of its columns; the index is `claim`"
    head, *rows = [[html.unescape(re.sub('<[^>]+>', '', o)).strip() for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)] for row in re.findall(r'<tr.*?</tr>', page, re.S)]
    return [dict(zip(['claim', *head[1:]], r)) for r in rows if any(r[1:])]

def measured(name:str): # a notebook without .ipynb -> rows of what it measures itself
    "The rows of its table of claims that come from no run"
    from mssl.ledger import Measured, PARTS
    wanted = {(p.claim, p.what) for p in PARTS if isinstance(p, Measured) and p.chapter == name[:2]}
    rows = []
    for i, c in enumerate(json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']):
        for o in c.get('outputs', []):
            page = as_text(o.get('data', {}).get('text/html', ''))
            if 'claim' not in page or '<table' not in page: continue
            for r in table(page):
                if (r['claim'], r.get('measured')) not in wanted: continue
                said = r.get('difference') or r['mean (95 %)']
                rows.append(dict(claim=r['claim'], measured=r['measured'], said=said, **dict(zip(('mean', 'low', 'high'), numbers(said))), verdict=r['verdict'], cell=c['id'], **({'over': r['over']} if 'over' in r else {})))
    return rows

def main(check=False): # -> did the file differ?
    "Write the file, or only compare"
    from mssl.ledger import Measured, PARTS
    found = {}
    for number in sorted({p.chapter for p in PARTS if isinstance(p, Measured)}):
        name = next(o for o in chapters() if o.startswith(number + '_'))
        found[number] = dict(notebook=f'{name}.ipynb', rows=measured(name))
    return write(root/'mssl/stored/claims.json', json.dumps(found, indent=1, ensure_ascii=False) + '\n', check)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if the file is out of date')
    args = parser.parse_args()
    sys.path.insert(0, str(root))
    sys.exit(main(args.check) and args.check)
