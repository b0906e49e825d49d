// One translation unit: most of the compile time is libtorch's headers.
#include "autograd.cpp"
#include "conv3x3.cpp"
#include "count.cpp"
#include "group.cpp"
#include "group_norm.cpp"
#include "lists.cpp"
#include "random.cpp"
#include "runtime.cpp"
