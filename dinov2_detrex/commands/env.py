"""Print what runs here: versions, which engine serves detectron2 and detrex, devices."""


def add_arguments(parser):
    pass


def run(args):
    from dinov2_detrex.env import describe

    rows = describe()
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
