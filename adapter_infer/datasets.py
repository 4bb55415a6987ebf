"""Class names and colours of the data sets that the released models were trained on. Imports no torch.

Names, their order and their colours are the data sets' own, as mmsegmentation 0.20, mmdet and ViT-Adapter list them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sized
from functools import cache
from typing import Any

Palette = tuple[tuple[int, int, int], ...]
Labels = tuple[tuple[str, ...] | None, Palette | None]  # class names and colours, None where not known

_ADE20K = """
wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth; door;
table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug; field; armchair;
seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard; chest of drawers;
counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway; case; pool table;
pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill; bench;
countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus; towel;
light; truck; tower; chandelier; awning; streetlight; booth; television receiver; airplane; dirt track; apparel;
pole; land; bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship; fountain; conveyer belt;
canopy; washer; plaything; swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike; cradle; oven; ball;
food; step; tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket; sculpture; hood;
sconce; vase; traffic light; tray; ashcan; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator;
glass; clock; flag
"""
_ADE20K_COLOURS = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652
8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0
ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff
00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500
0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
_CITYSCAPES = """
road; sidewalk; building; wall; fence; pole; traffic light; traffic sign; vegetation; terrain; sky; person; rider;
car; truck; bus; train; motorcycle; bicycle
"""
_CITYSCAPES_COLOURS = """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64
005064 0000e6 770b20
"""
_COCO = """
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign; parking
meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella; handbag; tie;
suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard; surfboard; tennis
racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple; sandwich; orange; broccoli; carrot; hot
dog; pizza; donut; cake; chair; couch; potted plant; bed; dining table; toilet; tv; laptop; mouse; remote; keyboard;
cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase; scissors; teddy bear; hair drier;
toothbrush
"""
_COCO_COLOURS = """
dc143c 770b20 00008e 0000e6 6a00e4 003c64 005064 000046 0000c0 faaa1e 64aa1e dcdc00 af74af fa001e a52a2a ff4dff
00e2fc b6b6ff 005200 78a69d 6e4c00 ae39ff c76400 480076 ffb3f0 007d5c d10097 bcd0b6 00dcb0 ff63a4 5c0049 8581ff
4eb4ff 00e400 aefff3 2d59ff 868667 9194ae ffd0ba c5e2ff ab8601 6d3f36 cf8aff 97005f 09503d 546933 4a4169 a6c466
d0c3d2 ff6d41 008f95 b300c2 d1636a 057900 e3ffcd 93bad0 994501 035fa1 a3ff00 7700aa 00b6c7 00a578 b78258 5f2000
827287 6e8185 a64a76 db8eb9 4fd272 b25a3e 41460f 7fa773 3b696a 8e6c2d c4ac00 5f3650 804cff c93901 f6007a bfa2d0
"""
_COCO_PANOPTIC = f"""
{_COCO};
banner; blanket; bridge; cardboard; counter; curtain; door-stuff; floor-wood; flower; fruit; gravel; house; light;
mirror-stuff; net; pillow; platform; playingfield; railroad; river; road; roof; sand; sea; shelf; snow; stairs;
tent; towel; wall-brick; wall-stone; wall-tile; wall-wood; water-other; window-blind; window-other; tree-merged;
fence-merged; ceiling-merged; sky-other-merged; cabinet-merged; table-merged; floor-other-merged; pavement-merged;
mountain-merged; grass-merged; dirt-merged; paper-merged; food-other-merged; building-other-merged; rock-merged;
wall-other-merged; rug-merged
"""
_COCO_PANOPTIC_COLOURS = f"""
{_COCO_COLOURS}
ffff80 93d3cb 966464 a8abac 9270c6 d2aa64 5c8859 da58b8 f18100 d911ff 7c4ab5 464646 ffe4ff 9ad000 c1005c 4c5b71
ffb4c3 6a9ab0 e6968c 3c8fff 804080 5c5237 fed47c 494dae ffa062 ffffff 68546d a9a483 e1c7ff 89364a 879edf 07f6e7
6bffc8 3a2995 b7798e ff4961 6b8e23 be9999 928b8d 4682b4 86c79c d1e28c 60246c 606060 40aa40 98fb98 d0e5e4 cebaab
98a140 747000 00728f 66669c fa8dff
"""
_COCO_STUFF = f"""
{_COCO};
banner; blanket; branch; bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other;
ceiling-tile; cloth; clothes; clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence; floor-marble;
floor-other; floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit; furniture-other; grass; gravel;
ground-other; hill; house; leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin; net; paper;
pavement; pillow; plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock; roof; rug;
salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw; structural-other; table;
tent; textile-other; towel; tree; vegetable; wall-brick; wall-concrete; wall-other; wall-panel; wall-stone;
wall-tile; wall-wood; water-other; waterdrops; window-blind; window-other; wood
"""
_COCO_STUFF_COLOURS = """
00c040 00c040 004060 80c0c0 004040 00c0e0 00c0c0 80c040 00c060 80c040 8020c0 0000e0 000040 00a0c0 800060 8000c0
0020c0 8080e0 0000c0 80a0c0 808000 800020 802000 800080 408020 00a000 000000 c080a0 002000 008080 4080a0 80a000
008000 c08020 806080 000080 400020 00e080 800000 c000a0 006080 808080 4000a0 80e080 808040 c00020 806000 8000c0
008020 40e000 000040 8080a0 406000 0080c0 0080a0 c0e000 008040 808020 c02080 0040c0 000020 40a080 804040 8000a0
402080 80c0c0 0000a0 c0a080 80c000 800060 c02000 804080 408060 40a000 004000 c080e0 402000 00c080 4080e0 c0a000
00c000 c08060 c06080 004080 400060 40e080 804000 c000e0 406080 80c080 4000e0 c0e080 80c040 c00060 c06000 8040c0
008060 00e000 404040 8080e0 006000 40c0c0 0080e0 80e000 40c040 808060 802080 4000c0 004060 00a080 c00040 8040e0
002080 c080c0 0040e0 80a080 c08000 804020 802040 c00080 40c020 00a040 400000 c0c0a0 002040 408080 40c0a0 80a040
408000 c0c020 8060c0 400080 404020 00e0c0 c00000 c040a0 0060c0 c08080 4040a0 80e0c0 c08040 c04020 806040 c000c0
00c020 40e040 400040 80c0a0 406040 4080c0 00c0a0 c0e040 408040 80c020 c020c0 4040c0 004020 40a0c0 c04040 8040a0
4020c0 c0c0c0 0040a0 c0a0c0 c0c000 804060 c02040 c04080 40c060 40a040 404000
"""
_PASCAL_CONTEXT_59 = """
aeroplane; bag; bed; bedclothes; bench; bicycle; bird; boat; book; bottle; building; bus; cabinet; car; cat;
ceiling; chair; cloth; computer; cow; cup; curtain; dog; door; fence; floor; flower; food; grass; ground; horse;
keyboard; light; motorbike; mountain; mouse; person; plate; platform; pottedplant; road; rock; sheep; shelves;
sidewalk; sign; sky; snow; sofa; table; track; train; tree; truck; tvmonitor; wall; water; window; wood
"""
_PASCAL_CONTEXT_59_COLOURS = """
b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c
ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806
0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c
fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
"""
_POTSDAM = """
impervious_surface; building; low_vegetation; tree; car; clutter
"""
_POTSDAM_COLOURS = """
ffffff 0000ff 00ffff 00ff00 ffff00 ff0000
"""
_CHASE_DB1 = """
background; vessel
"""
_CHASE_DB1_COLOURS = """
787878 06e6e6
"""

_BY_TYPE = {
    "ADE20KDataset": (_ADE20K, _ADE20K_COLOURS),
    "CityscapesDataset": (_CITYSCAPES, _CITYSCAPES_COLOURS),
    "CocoDataset": (_COCO, _COCO_COLOURS),
    "CocoPanopticDataset": (_COCO_PANOPTIC, _COCO_PANOPTIC_COLOURS),
    "COCOStuffDataset": (_COCO_STUFF, _COCO_STUFF_COLOURS),
    "PascalContextDataset59": (_PASCAL_CONTEXT_59, _PASCAL_CONTEXT_59_COLOURS),
    "PotsdamDataset": (_POTSDAM, _POTSDAM_COLOURS),
    "ChaseDB1Dataset": (_CHASE_DB1, _CHASE_DB1_COLOURS),
}


@cache
def _labels(kind: str) -> tuple[tuple[str, ...], Palette]:
    names, colours = _BY_TYPE[kind]
    rgb = [bytes.fromhex(colour) for colour in colours.split()]
    return tuple(" ".join(name.split()) for name in names.split(";")), tuple((r, g, b) for r, g, b in rgb)


def of_type(kind: str, num_classes: int) -> Labels:
    """Names and colours of a data set by its mmseg or mmdet class; None, None if unknown or of another count."""
    if kind not in _BY_TYPE:
        return None, None
    names, palette = _labels(kind)
    return (names, palette) if len(names) == num_classes else (None, None)


def checked(names: Any, colours: Any, num_classes: int) -> Labels:
    """Names and colours as a configuration or checkpoint gives them; what does not fit `num_classes` becomes None."""
    found_names = found_colours = None
    if _is_list(names, num_classes) and all(isinstance(name, str) for name in names):
        found_names = tuple(names)
    if _is_list(colours, num_classes) and all(_is_list(c, 3) and all(_is_byte(v) for v in c) for c in colours):
        found_colours = tuple((int(r), int(g), int(b)) for r, g, b in colours)
    return found_names, found_colours


def _is_list(value: Any, length: int) -> bool:
    """A sequence of that length; numpy arrays, which some checkpoints hold, count as well."""
    sized = isinstance(value, Sized) and isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
    return sized and len(value) == length


def _is_byte(value: Any) -> bool:
    try:
        return 0 <= operator.index(value) <= 255
    except TypeError:
        return False
