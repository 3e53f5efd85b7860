"""What the scripts that write the tables of bench/README.md share."""
import json
import re


def us(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_tables(path, mark, lines):
    """Puts the lines between <!-- mark: begin, … --> and <!-- mark: end --> of the page, in place of what is there."""
    with open(path, encoding="utf-8") as file:
        page = file.read()
    begin, end = re.search(f"<!-- {mark}: begin,[^>]*-->\n", page).end(), page.index(f"<!-- {mark}: end -->")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page[:begin] + "\n".join(lines) + "\n" + page[end:])
