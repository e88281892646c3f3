"""The public names, where they are made: importing this imports Keras and everything of ours."""

from keras_hoyer import callbacks as callbacks
from keras_hoyer import criteria as criteria
from keras_hoyer import measures as measures
from keras_hoyer import patterns as patterns
from keras_hoyer import proximal as proximal
from keras_hoyer import schedules as schedules
from keras_hoyer.attach import regularize as regularize
from keras_hoyer.attach import strip as strip
from keras_hoyer.exporters import ExportError as ExportError
from keras_hoyer.exporters import check_sparse_inference as check_sparse_inference
from keras_hoyer.exporters import export as export
from keras_hoyer.exporters import load_sparse_weights as load_sparse_weights
from keras_hoyer.graph import register_rule as register_rule
from keras_hoyer.graph.building import ShrinkError as ShrinkError
from keras_hoyer.graph.costs import count_flops as count_flops
from keras_hoyer.graph.shrink import shrink as shrink
from keras_hoyer.pruning import keep_zeros as keep_zeros
from keras_hoyer.pruning import prune as prune
from keras_hoyer.regularizers import GroupHoyer as GroupHoyer
from keras_hoyer.regularizers import GroupHoyerSquare as GroupHoyerSquare
from keras_hoyer.regularizers import GroupLasso as GroupLasso
from keras_hoyer.regularizers import Hoyer as Hoyer
from keras_hoyer.regularizers import HoyerSquare as HoyerSquare
from keras_hoyer.regularizers import TransformedL1 as TransformedL1
from keras_hoyer.reports import report as report
