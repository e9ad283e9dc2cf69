"""Run the commands of benchmarks/RESULTS.md and put their tables in; what fails stays as it was.

Wants an idle machine: the tables are read as this machine's numbers.
"""

RESULTS = "benchmarks/RESULTS.md"


def add_arguments(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run, e.g. losses; all of the file")
    parser.add_argument("--file", default=RESULTS, metavar="FILE", help=f"{RESULTS}")


def run(args):
    import subprocess
    import sys
    from pathlib import Path

    from dinov2_detrex.analysis.benchmark.results import renewed
    from dinov2_detrex.runtime import files

    def printed(words):
        program = "import sys; from dinov2_detrex.cli import run_command; sys.exit(run_command('benchmark'))"
        print(f"benchmark {' '.join(words)}", flush=True)
        result = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
        if result.returncode:
            print(result.stderr.strip(), file=sys.stderr)
        return None if result.returncode else result.stdout

    path = Path(args.file)
    before = path.read_text(encoding="utf-8")
    after = renewed(before, printed, args.names)
    if after != before:
        files.write_text(path, after)
