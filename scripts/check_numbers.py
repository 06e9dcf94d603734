"""Numbers in the prose against the stored runs that they come from.

    python scripts/check_numbers.py [nbs/00_data.ipynb …] [--untied]

A tied number looks like `.789<!-- run: levels-calm-0 knn -->`; what may stand in the comment is told in nbs/runs.ipynb (`run_number`).
Without names, every notebook of nbs/. The exit status is 1 if one does not agree with its run to the digits that are printed.
`--untied` lists numbers such as .79 that are tied to nothing: some are settings and constants, the others should be tied."""
import argparse, json, re, sys
from pathlib import Path
from project import notebooks
from mssl.runs import run_number

TIE = re.compile(r'<!--\s*run:(.*?)-->', re.S)
NUMBER = re.compile(r'([-+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+))(\s*(?:%|percent|per cent))?[*_]*\s*$')

def tied_numbers(text:str, # markdown
                )->list: # (number as written, expression)
    "The numbers of a text that are tied to runs; code is left out"
    text = re.sub(r'(?ms)^ *(```|~~~).*?^ *\1[^\n]*$|`[^`\n]*`', lambda m: m[0] if '<!--' not in m[0] else '', text)
    out = []
    for m in TIE.finditer(text):
        number = NUMBER.search(TIE.sub('', text[max(0, m.start() - 60):m.start()]))
        out.append((number[0].strip() if number else '', ' '.join(m[1].split())))
    return out

def check_numbers(text:str, # markdown
                  folder=None, # of JSON files; those of the package when None
                 )->list: # (number as written, expression, what is wrong)
    "What is wrong with the tied numbers of a text; empty if all agree to the digits that are printed"
    wrong = []
    for said, expression in tied_numbers(text):
        number = NUMBER.search(said)
        if not number: wrong.append((said, expression, 'no number stands before the comment')); continue
        bound = re.match(r'at (least|most)\s+', expression)
        try: true = run_number(expression[bound.end():] if bound else expression, folder)
        except ValueError as e: wrong.append((said, expression, str(e))); continue
        digits, scale = number[1].replace(',', '').replace('−', '-'), 100 if number[2] else 1
        unit, given = 10**-len(digits.partition('.')[2]), float(digits)
        fits = (true * scale >= given if bound[1] == 'least' else true * scale <= given) if bound else abs(true * scale - given) <= unit * .500001
        if not fits: wrong.append((said, expression, f'it is {true * scale:.6g}{number[2] or ""}'))
    return wrong

def prose(path): # a notebook -> its markdown
    return '\n\n'.join(''.join(c['source']) for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')

def untied(text): # markdown -> shares such as .79 outside of code and formulas that no comment follows
    text = re.sub(r'(?ms)^ *(```|~~~).*?^ *\1[^\n]*$|`[^`\n]*`|\$[^$]*\$|\]\([^)]*\)', '', text)
    return re.findall(r'(?<![\w.])\.\d{2,3}(?!\d)(?!\s*<!--)', text)

def main(paths=(), show_untied=False, folder=None): # -> how many are wrong
    "Print what is wrong, notebook by notebook"
    wrong, count = 0, 0
    for path in [Path(p) for p in paths] or notebooks():
        text = prose(path)
        count += len(tied_numbers(text))
        for said, expression, reason in check_numbers(text, folder):
            wrong += 1
            print(f'{path.name}: {said!r} is tied to "{expression}", but {reason}')
        if show_untied and untied(text): print(f'{path.name}: untied {", ".join(untied(text))}')
    print(f'{count} numbers are tied to runs, {wrong} wrong')
    return wrong

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='notebooks to read; all of nbs/ if none is named')
    parser.add_argument('--untied', action='store_true', help='list numbers that look like results and are tied to nothing')
    args = parser.parse_args()
    sys.exit(bool(main(args.notebooks, args.untied)))
